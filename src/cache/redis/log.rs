//! The purge log: a stream that every node reads and that this node, `tidegate purge` and the application
//! write.
//!
//! A report on its key means that it has grown; the link reads it then, and so does a request that needs to
//! know at once ([`RedisStore::catch_up`]). [`crate::cache::coherence::purge`] describes the effect of its
//! records on answers.

use super::{shard::StoreShard, RedisStore, PAY_AGAIN};
use crate::{
    cache::coherence::purge::{
        beginning, LogReadOutcome, PurgeDebt, PurgeOrder, PurgeRecord, RecordId, MAX_REMEMBERED,
    },
    clock::now_ms,
    telemetry::labels::{Invalidation, StoreCall, StoreError},
};

use redis::{cmd, from_redis_value, Cmd, ErrorKind, RedisResult, Value};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// The number of records in one read.
const PAGE: usize = 1_000;
/// The number of records in one write, so that it fits into a deadline.
const BATCH: usize = 250;

impl RedisStore {
    /// Reads the purge log up to its present end, for a request, unless another caller's reading has done
    /// that. Requests at the same moment share one reading.
    ///
    /// # Errors
    /// If the store can't be asked within the deadline. The last knowledge stays in use then.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        if self.is_log_untold() {
            // Without reports each request is a reason to read. One reading serves all requests from before
            // it began.
            self.purges.grown();
        }
        // The page being read may be read in the background, and take longer.
        match tokio::time::timeout(self.deadline, self.read_to_the_end(self.deadline)).await {
            Ok(read) => read,
            // Its calls record if the store is slow: this one may have waited for another caller's reading
            // alone.
            Err(_) => {
                self.purges.could_not_read();
                Err(StoreError::Timeout)
            }
        }
    }

    async fn read_to_the_end(&self, at_most: Duration) -> Result<(), StoreError> {
        let asked_at = self.purges.reports();
        let _reading = self.log_reading.lock().await;
        if self.purges.has_heeded(asked_at) {
            return Ok(());
        }
        let reading = self.purges.begin_reading(now_ms());
        match self.read_log(at_most).await {
            Ok(()) => self.purges.heed(reading),
            Err(error) => {
                self.purges.could_not_read();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn read_log(&self, at_most: Duration) -> Result<(), StoreError> {
        loop {
            let from = self.purges.log_id();
            let page = self.read_page(from, at_most).await?;
            match self.purges.read(from, &page) {
                LogReadOutcome::Taken if page.len() < PAGE => return Ok(()),
                LogReadOutcome::Taken | LogReadOutcome::Overtaken => {}
                LogReadOutcome::Empty => self.begin(at_most).await?,
                LogReadOutcome::Gap => {
                    tracing::warn!("the log of purges has a gap: everything is purged");
                    self.metrics.invalidation(Invalidation::PurgeGap);
                }
            }
        }
    }

    async fn read_page(
        &self,
        from: Option<RecordId>,
        at_most: Duration,
    ) -> Result<Vec<PurgeRecord>, StoreError> {
        let (name, mut range) = (self.names.purge_log(), cmd("XRANGE"));
        range.arg(&name);
        match from {
            // From the last known record, inclusive: it must still be there.
            Some(id) => range.arg(id.number()),
            None => range.arg("-"),
        };
        range.arg("+").arg("COUNT").arg(PAGE);
        self.call_within(at_most, StoreCall::ReadPurges, &name, |mut c| async move {
            range.query_async::<Vec<Vec<Value>>>(&mut c).await?.into_iter().map(record).collect()
        })
        .await
    }

    /// Writes a debt to the log and reads it back; then it is settled.
    ///
    /// # Errors
    /// If the store did not take all of it. It stays owed, and is paid when there is a link.
    pub async fn pay(&self, debt: PurgeDebt) -> Result<(), StoreError> {
        self.pay_within(self.deadline, debt).await
    }

    async fn pay_within(&self, at_most: Duration, debt: PurgeDebt) -> Result<(), StoreError> {
        if debt.is_empty() {
            return Ok(());
        }
        let name = self.names.purge_log();
        let records: Vec<_> = debt.orders().map(|order| append_command(&name, &order.fields())).collect();
        for batch in records.chunks(BATCH) {
            self.append(batch.to_vec(), at_most).await?;
        }
        self.tell(vec![name]).await;
        self.purges.grown();
        self.read_to_the_end(at_most).await?;
        debt.settle();
        Ok(())
    }

    async fn begin(&self, at_most: Duration) -> Result<(), StoreError> {
        self.append(vec![append_command(&self.names.purge_log(), &beginning(rand::random()))], at_most).await
    }

    /// Appends records, all under one key: a cluster takes them at once too.
    async fn append(&self, records: Vec<Cmd>, at_most: Duration) -> Result<(), StoreError> {
        self.call_within(at_most, StoreCall::Purge, &self.names.purge_log(), |mut c| async move {
            let mut pipeline = redis::pipe();
            for record in records {
                pipeline.add_command(record).ignore();
            }
            pipeline.exec_async(&mut c).await
        })
        .await
    }

    /// Pays the debts of earlier failures.
    pub(super) async fn pay_purges(&self) {
        loop {
            let debt = self.purges.take_debt(BATCH);
            if debt.is_empty() || self.pay_within(self.relaxed_timeout(), debt).await.is_err() {
                return;
            }
        }
    }

    /// Reads the log whenever it grows, even without a request, so that requests as a rule find it read.
    pub(super) async fn keep_reading(&self, shard: &Arc<StoreShard>) -> Infallible {
        let mut told = false;
        loop {
            if !self.has_log(shard) {
                // The log may move here: slots of a cluster move.
                tokio::time::sleep(PAY_AGAIN).await;
                continue;
            }
            match self.read_to_the_end(self.relaxed_timeout()).await {
                Ok(()) => {
                    told = false;
                    self.log_grown.notified().await;
                    if !self.has_log(shard) {
                        // Requests may wait for the result.
                        self.log_grown.notify_one();
                    }
                }
                Err(error) => {
                    self.purges.is_refused(now_ms());
                    if error == StoreError::Protocol && !told {
                        told = true;
                        tracing::warn!(key = self.names.purge_log(), "redis refuses the log of purges");
                    }
                    tokio::time::sleep(PAY_AGAIN).await;
                }
            }
        }
    }
}

fn append_command(name: &str, fields: &[(&'static str, String)]) -> Cmd {
    let mut append = cmd("XADD");
    append.arg(name).arg("MAXLEN").arg("~").arg(MAX_REMEMBERED).arg("*");
    for (field, value) in fields {
        append.arg(*field).arg(value);
    }
    append
}

/// Parses a record: its number, then its fields and their values in turn. An unknown order keeps its position
/// too.
fn record(parts: Vec<Value>) -> RedisResult<PurgeRecord> {
    let mut parts = parts.into_iter();
    let number: String = from_redis_value(parts.next().unwrap_or(Value::Nil))?;
    let words: Vec<Vec<u8>> = from_redis_value(parts.next().unwrap_or(Value::Nil))?;
    let id = RecordId::new(&number, &words);
    let id = id.map_err(|error| (ErrorKind::UnexpectedReturnType, "log of purges", error.to_string()))?;
    let purge = text(words).and_then(|fields| PurgeOrder::read(&fields).map_err(|error| error.to_string()));
    let purge = purge.unwrap_or_else(|error| {
        tracing::warn!(number, error, "a record of the log of purges is ignored");
        None
    });
    Ok(PurgeRecord { id, purge })
}

fn text(words: Vec<Vec<u8>>) -> Result<Vec<(String, String)>, String> {
    let words: Result<Vec<_>, _> = words.into_iter().map(String::from_utf8).collect();
    let words = words.map_err(|_| "it is no text".to_owned())?;
    Ok(words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}
