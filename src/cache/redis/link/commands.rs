//! The connection for commands. In a cluster it follows the redirections of a master.

use redis::{
    aio::{ConnectionLike, MultiplexedConnection},
    cmd, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value,
};
use std::sync::Arc;

/// The most redirections of a command: its slot has moved, then its key is being moved to yet another master.
const HOPS: usize = 3;

/// Finds the connection to another master of the cluster, by its address. A slot that has moved for good
/// causes a new list of the masters.
pub(in crate::cache::redis) type MasterLookup =
    Arc<dyn Fn(&str, ClusterRedirect) -> Option<MultiplexedConnection> + Send + Sync>;

/// The reason why a command goes to another master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache::redis) enum ClusterRedirect {
    /// The slot has moved.
    Moved,
    /// The slot is moving, and this key has gone ahead.
    Ask,
}

/// The connection for commands.
#[derive(Clone)]
pub(in crate::cache::redis) struct CommandConnection {
    connection: MultiplexedConnection,
    /// The way to other masters, in a cluster.
    elsewhere: Option<MasterLookup>,
}

impl CommandConnection {
    /// A connection to this server alone.
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, elsewhere: None }
    }

    /// The same in a cluster.
    pub(super) fn in_cluster(self, elsewhere: MasterLookup) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// The connection to the server itself, for commands that another master has redirected.
    pub(in crate::cache::redis) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    fn redirected(&self, error: &RedisError) -> Option<(MultiplexedConnection, ClusterRedirect)> {
        let elsewhere = self.elsewhere.as_ref()?;
        let (address, _) = error.redirect_node()?;
        let why = match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => ClusterRedirect::Ask,
            _ => ClusterRedirect::Moved,
        };
        Some((elsewhere(address, why)?, why))
    }

    async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        let mut said = self.connection.req_packed_command(command).await.and_then(Value::extract_error);
        for _ in 0..HOPS {
            let Some((mut other, why)) = said.as_ref().err().and_then(|error| self.redirected(error)) else {
                break;
            };
            said = match why {
                ClusterRedirect::Moved => other.req_packed_command(command).await,
                ClusterRedirect::Ask => {
                    let asked = asking(std::iter::once(command));
                    let answers = other.req_packed_commands(&asked, 0, 2).await;
                    answers.map(|mut answers| answers.pop().unwrap_or(Value::Nil))
                }
            };
            said = said.and_then(Value::extract_error);
        }
        said
    }

    /// Sends all commands of a pipeline elsewhere if one of them is redirected: they are about one key.
    async fn run_all(&mut self, pipeline: &Pipeline, offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        let mut said = self.connection.req_packed_commands(pipeline, offset, count).await;
        for _ in 0..HOPS {
            let Some((mut other, why)) = refusal(&said).and_then(|error| self.redirected(&error)) else {
                break;
            };
            said = match why {
                ClusterRedirect::Moved => other.req_packed_commands(pipeline, offset, count).await,
                ClusterRedirect::Ask => {
                    let asked = asking(pipeline.cmd_iter());
                    let answers = other.req_packed_commands(&asked, 0, 2 * count).await;
                    answers.map(|answers| answers.into_iter().skip(1).step_by(2).collect())
                }
            };
        }
        said
    }
}

/// The commands, each after `ASKING`, for keys that are being moved.
fn asking<'a>(commands: impl Iterator<Item = &'a Cmd>) -> Pipeline {
    let mut asked = redis::pipe();
    for command in commands {
        asked.add_command(cmd("ASKING")).add_command(command.clone());
    }
    asked
}

/// The first refusal among the answers.
fn refusal(said: &RedisResult<Vec<Value>>) -> Option<RedisError> {
    match said {
        Err(error) => Some(error.clone()),
        Ok(answers) => answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error.clone().into()),
            _ => None,
        }),
    }
}

impl ConnectionLike for CommandConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self.elsewhere {
            None => self.connection.req_packed_command(cmd),
            Some(_) => Box::pin(self.run(cmd)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self.elsewhere {
            None => self.connection.req_packed_commands(pipeline, offset, count),
            Some(_) => Box::pin(self.run_all(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
