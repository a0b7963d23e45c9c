//! The commands of the command line.

mod sign;

use crate::{
    cache::{
        coherence::{
            partitions::StorePartitions,
            purge::{PurgeOrder, PurgeTable, PurgeTarget},
            version::VersionTable,
        },
        redis::RedisStore,
    },
    certificate, clock,
    config::{
        self, AdminConfig, CacheMode, Config, ConfigError, JwtKeys, LoadedConfig, RouteConfig, Secret,
        ServerAddress,
    },
    demo,
    identity::{mint_token, TokenBearer},
    name::Name,
    route::RouteTable,
    server::{
        self,
        manager::{self, ServiceStage},
        RunningGateway, StartError,
    },
    telemetry::{self, labels::StoreError, metrics::Metrics},
};
use clap::{Parser, Subcommand};
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{signal, SignalKind},
};

/// The configuration is wrong, or an option doesn't fit it (sysexits.h: EX_USAGE).
const EXIT_USAGE: u8 = 64;
/// A required service or file is missing (EX_UNAVAILABLE).
const EXIT_UNAVAILABLE: u8 = 69;

const DEMO_CONFIG: &str = include_str!("../../conf/demo.toml");

#[derive(Parser)]
#[command(name = "tidegate", version, about = "An edge cache gateway for dashboards and APIs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway with a demo application behind it; needs nothing else
    Demo {
        /// The address of the gateway
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The address of the admin listener
        #[arg(long, default_value = "127.0.0.1:9180")]
        admin: SocketAddr,
    },
    /// Run the gateway
    Run {
        /// The configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration file: every fault at once; exit 0 or 64
    Check {
        /// The configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Print a token, signed with the secret of a configuration or of the environment variable JWT_SECRET
    Token {
        /// The tenant
        #[arg(long)]
        tenant: Name,
        /// The user
        #[arg(long)]
        user: Option<String>,
        /// The role
        #[arg(long)]
        role: Option<String>,
        /// The lifetime, such as "6h"; a number alone is in seconds
        #[arg(long, default_value = "6h", value_parser = seconds_or_duration)]
        ttl: Duration,
        /// The configuration file with the secret
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Move a version: every node drops what it has of the namespace and tenant
    Bump {
        /// The configuration file, for its store
        #[arg(long)]
        config: PathBuf,
        /// The namespace
        namespace: Name,
        /// The tenant
        tenant: Name,
    },
    /// Print a signed URL, for a route with signed
    Sign {
        /// The configuration file, for the route's secret
        #[arg(long)]
        config: PathBuf,
        /// The name of the route, if it is not the one that matches the URL
        #[arg(long)]
        route: Option<Name>,
        /// The lifetime of the signature, such as 1h
        #[arg(long, value_parser = lifetime)]
        expires: Duration,
        /// Sign for all paths with this prefix, such as /media/a/
        #[arg(long)]
        under: Option<String>,
        /// An absolute URL, or a path with its query
        url: String,
    },
    /// Purge URLs or tags: every node drops what it has of them
    Purge {
        /// The configuration file, for its store
        #[arg(long)]
        config: PathBuf,
        /// Mark as stale instead of dropping
        #[arg(long)]
        soft: bool,
        /// Absolute URLs, each with all its variants
        #[arg(required_unless_present = "tags")]
        urls: Vec<String>,
        /// A tag (Cache-Tag, Surrogate-Key); may be repeated
        #[arg(long = "tag", conflicts_with = "urls")]
        tags: Vec<String>,
    },
}

/// The reason for a failed command, and its exit code.
struct CommandFailure(u8, String);

type CommandResult = Result<(), CommandFailure>;

/// Runs the command line.
pub fn main() -> ExitCode {
    let _flushed = telemetry::FlushGuard;
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
    let outcome = match Cli::parse().command {
        Command::Demo { listen, admin } => run_demo(listen, admin),
        Command::Run { config } => run_gateway(&config),
        Command::Check { config } => check_config(&config),
        Command::Token { tenant, user, role, ttl, config } => {
            let (user, role) = (user.as_deref(), role.as_deref());
            print_token(&TokenBearer { tenant: &tenant, user, role, lifetime: ttl }, config.as_deref())
        }
        Command::Bump { config, namespace, tenant } => bump_version(&config, &namespace, &tenant),
        Command::Sign { config, route, expires, under, url } => {
            let wish = sign::SignRequest {
                route: route.as_ref(),
                under: under.as_deref(),
                lifetime: expires,
                url: &url,
            };
            load_config(&config).and_then(|config| {
                let signed = sign::sign_url(&config, &wish, clock::wall());
                print_line(&signed.map_err(|text| CommandFailure(EXIT_USAGE, text))?)
            })
        }
        Command::Purge { config, soft, urls, tags } => purge_answers(&config, soft, &urls, &tags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandFailure(code, text)) => {
            telemetry::write_to_stderr(&text);
            ExitCode::from(code)
        }
    }
}

fn print_line(text: &str) -> CommandResult {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| CommandFailure(EXIT_UNAVAILABLE, format!("stdout: {error}")))
}

fn read_config(path: &Path) -> Result<LoadedConfig, CommandFailure> {
    Config::load(path).map_err(|error| match error {
        ConfigError::Faults(faults) => CommandFailure(EXIT_USAGE, faults.to_string().trim_end().to_owned()),
        error => CommandFailure(EXIT_USAGE, error.to_string()),
    })
}

fn load_config(path: &Path) -> Result<Config, CommandFailure> {
    let loaded = read_config(path)?;
    for warning in loaded.warnings {
        writeln!(io::stderr(), "warning: {warning}").unwrap_or_default();
    }
    Ok(loaded.config)
}

fn check_config(path: &Path) -> CommandResult {
    let config = load_config(path)?;
    let refused = |error| CommandFailure(EXIT_USAGE, format!("{}: {error}", path.display()));
    server::rehearse_start(&config).map_err(refused)?;
    print_line(&format!(
        "{}: ok ({} routes, {} origins)",
        path.display(),
        config.routes.len(),
        config.origins.len()
    ))
}

fn run_gateway(path: &Path) -> CommandResult {
    // Taken before the file is read, so that a later change is noticed.
    let mut seen = server::SeenFiles::before(path);
    let LoadedConfig { config, warnings, secret_files } = read_config(path)?;
    seen.with_secrets(secret_files);
    telemetry::init_logging(config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    build_runtime(config.server.threads)?.block_on(async {
        let unavailable = |error: io::Error| CommandFailure(EXIT_UNAVAILABLE, format!("signals: {error}"));
        // Installed first: without a handler the signal would end the process.
        let reload = signal(SignalKind::hangup()).map_err(unavailable)?;
        let running = start_server(config).await?;
        for address in &running.addresses {
            tracing::info!(%address, "listening");
        }
        let (version, admin) = (env!("CARGO_PKG_VERSION"), running.admin.map(tracing::field::display));
        tracing::info!(version, config = %path.display(), admin, "ready");
        manager::notify_manager(ServiceStage::Ready);
        tokio::select! {
            () = running.follow(path, seen, reload) => Ok(()),
            ended = run_until_signal(&running) => ended,
        }
    })
}

fn build_runtime(threads: usize) -> Result<tokio::runtime::Runtime, CommandFailure> {
    /// The time for which blocking threads are kept. Encodings come with fills, every few seconds.
    const KEEP: Duration = Duration::from_secs(3_600);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(KEEP)
        .enable_all()
        .build()
        .map_err(|error| CommandFailure(EXIT_UNAVAILABLE, format!("no runtime: {error}")))
}

async fn start_server(config: Config) -> Result<RunningGateway, CommandFailure> {
    server::start_gateway(config).await.map_err(|error| match error {
        StartError::Bind { .. } | StartError::Metrics(_) => {
            CommandFailure(EXIT_UNAVAILABLE, error.to_string())
        }
        StartError::Keys(_) | StartError::Secret(_) | StartError::Certificate(_) => {
            CommandFailure(EXIT_USAGE, error.to_string())
        }
    })
}

/// The demo has no configuration file to name in an error: its addresses are options.
async fn start_demo(config: Config) -> Result<RunningGateway, CommandFailure> {
    let named =
        |text: String| text.replace("listener[0].address", "--listen").replace("admin.address", "--admin");
    start_server(config).await.map_err(|CommandFailure(code, text)| CommandFailure(code, named(text)))
}

/// Runs until SIGTERM or SIGINT, then drains; a second signal ends it at once.
async fn run_until_signal(running: &RunningGateway) -> CommandResult {
    let unavailable = |error: io::Error| CommandFailure(EXIT_UNAVAILABLE, format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    manager::notify_manager(ServiceStage::Stopping);
    tokio::select! {
        finished = running.stop() => tracing::info!(finished, "stopped"),
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
    }
    Ok(())
}

fn print_token(bearer: &TokenBearer<'_>, config: Option<&Path>) -> CommandResult {
    let (secret, algorithm, jwt) = match config {
        Some(path) => {
            let jwt = load_config(path)?
                .jwt
                .ok_or_else(|| CommandFailure(EXIT_USAGE, "the configuration has no [jwt]".into()))?;
            match (&jwt.keys, jwt.algorithms.first()) {
                (JwtKeys::Secrets(secrets), Some(algorithm)) if !secrets.is_empty() => {
                    (secrets[0].clone(), *algorithm, Some(jwt))
                }
                _ => {
                    return Err(CommandFailure(
                        EXIT_USAGE,
                        "only a shared secret can sign here, not a JWKS".into(),
                    ))
                }
            }
        }
        None => {
            let secret = std::env::var("JWT_SECRET")
                .map_err(|_| CommandFailure(EXIT_USAGE, "give --config, or set JWT_SECRET".into()))?;
            (Secret::new(secret), jsonwebtoken::Algorithm::HS256, None)
        }
    };
    let token = mint_token(&secret, algorithm, bearer, jwt.as_ref(), clock::wall())
        .map_err(|error| CommandFailure(EXIT_USAGE, error.to_string()))?;
    print_line(&token)
}

fn seconds_or_duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => lifetime(text),
    }
}

/// At least a second: the expiry of signed URLs is in whole seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    match config::duration(text)? {
        short if short < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        lifetime => Ok(lifetime),
    }
}

fn bump_version(path: &Path, namespace: &Name, tenant: &Name) -> CommandResult {
    let of = |route: &RouteConfig| matches!(&route.cache, CacheMode::Versioned(rules) if rules.namespace == *namespace);
    let config = load_config(path)?;
    if !config.routes.iter().any(of) {
        // The application may use versions of its own, so that this is only a warning.
        let text = format!("warning: no route of {} has the namespace {namespace}", path.display());
        writeln!(io::stderr(), "{text}").unwrap_or_default();
    }
    let without = "each gateway keeps versions of its own: send it a signed event instead";
    with_store(&config, without, async |redis, versions, _| {
        let bumped = redis.bump(&versions.slot(namespace, tenant), clock::now_ms()).await;
        let version = bumped.map_err(store_failure)?;
        print_line(&format!("{namespace}:{tenant} is at {}", version.tag()))
    })
}

fn purge_answers(path: &Path, soft: bool, urls: &[String], tags: &[String]) -> CommandResult {
    let urls = urls.iter().map(|text| (text, PurgeTarget::url(text)));
    let tags = tags.iter().map(|text| (text, PurgeTarget::tag(text)));
    let wanted = urls.chain(tags).map(|(text, target)| match target {
        Ok(target) => Ok(PurgeOrder { target, soft }),
        Err(error) => Err(CommandFailure(EXIT_USAGE, format!("{}: {error}", text.escape_debug()))),
    });
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    let without = "each gateway purges for itself: use POST /api/purge of its admin listener instead";
    let config = load_config(path)?;
    let routes = RouteTable::new(&config.routes);
    for purge in &wanted {
        if let PurgeTarget::Url { host, target } = &purge.target {
            let purgeable = routes.purgeable(&config.routes, host, target);
            purgeable
                .map_err(|error| CommandFailure(EXIT_USAGE, format!("http://{host}{target}: {error}")))?;
        }
    }
    with_store(&config, without, async |redis, _, purges| {
        let ordered = wanted.len();
        redis.pay(purges.order(wanted)).await.map_err(store_failure)?;
        print_line(&format!("purged: {ordered}"))
    })
}

fn store_failure(error: StoreError) -> CommandFailure {
    CommandFailure(EXIT_UNAVAILABLE, format!("the store did not take it: {error}"))
}

/// Runs work with the store of a configuration, as a temporary node.
fn with_store(
    config: &Config,
    without: &str,
    work: impl AsyncFnOnce(&RedisStore, &VersionTable, &Arc<PurgeTable>) -> CommandResult,
) -> CommandResult {
    /// The time for which the store is waited for.
    const PATIENCE: Duration = Duration::from_secs(3);
    let Some(target) = config.store.redis.clone() else {
        return Err(CommandFailure(EXIT_USAGE, format!("without [store] redis {without}")));
    };
    certificate::install_provider();
    build_runtime(1)?.block_on(async {
        let metrics =
            Arc::new(Metrics::new().map_err(|error| CommandFailure(EXIT_UNAVAILABLE, error.to_string()))?);
        let partitions = StorePartitions::of_store(&config.store, clock::now_ms());
        let versions = Arc::new(VersionTable::new(partitions.clone()));
        let purges = Arc::new(PurgeTable::new(partitions.of_purge_log().clone()));
        let redis =
            Arc::new(RedisStore::new(&config.store, partitions, versions.clone(), purges.clone(), metrics));
        let link = tokio::spawn(redis.clone().keep_linked(target));
        let began = Instant::now();
        while !redis.is_up() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let outcome = work(&redis, &versions, &purges).await;
        let outcome = outcome.map_err(|CommandFailure(code, text)| {
            CommandFailure(code, [vec![text], redis.troubles()].concat().join("\n"))
        });
        link.abort();
        outcome
    })
}

fn run_demo(listen: SocketAddr, admin: SocketAddr) -> CommandResult {
    let no_env = |_: &str| None;
    let loaded = Config::parse(DEMO_CONFIG, "conf/demo.toml", &no_env)
        .map_err(|faults| CommandFailure(EXIT_USAGE, faults.to_string()))?;
    let mut config = loaded.config;
    telemetry::init_logging(config.log);
    build_runtime(config.server.threads)?.block_on(async {
        for listener in &mut config.listeners {
            listener.address = listen;
        }
        config.admin = Some(AdminConfig { address: admin, hosts: Vec::new() });
        // The origin's port is chosen first: the gateway needs it, and the origin needs the gateway's.
        let behind = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| {
            CommandFailure(EXIT_UNAVAILABLE, format!("no port for the demo origin: {error}"))
        })?;
        let port =
            behind.local_addr().map_err(|error| CommandFailure(EXIT_UNAVAILABLE, error.to_string()))?.port();
        for server in config.origins.iter_mut().flat_map(|origin| &mut origin.servers) {
            server.address = ServerAddress::Tcp { tls: false, host: "127.0.0.1".to_owned(), port };
        }
        let (jwt_secret, event_secret) = demo_secrets(&config)?;
        let running = start_demo(config).await?;
        let gateway = running.addresses.first().map_or_else(String::new, |a| format!("http://{a}"));
        let settings = demo::DemoSettings {
            gateway: gateway.clone(),
            jwt_secret: jwt_secret.clone(),
            event_secret,
            query_cost: Duration::from_millis(150),
        };
        let origin = demo::DemoOrigin::start(behind, settings)
            .map_err(|error| CommandFailure(EXIT_UNAVAILABLE, error.to_string()))?;
        let token = mint_token(
            &jwt_secret,
            jsonwebtoken::Algorithm::HS256,
            &TokenBearer {
                tenant: &"acme".parse().map_err(|_| CommandFailure(EXIT_USAGE, "acme is no name".into()))?,
                user: Some("alice"),
                role: Some("admin"),
                lifetime: Duration::from_secs(6 * 3600),
            },
            None,
            clock::wall(),
        )
        .map_err(|error| CommandFailure(EXIT_USAGE, error.to_string()))?;
        print_line(&demo_introduction(&gateway, running.admin, &token))?;
        let ended = run_until_signal(&running).await;
        origin.stop.cancel();
        ended
    })
}

fn demo_secrets(config: &Config) -> Result<(Secret, Secret), CommandFailure> {
    let jwt = match config.jwt.as_ref().map(|jwt| &jwt.keys) {
        Some(JwtKeys::Secrets(secrets)) => secrets.first(),
        _ => None,
    };
    let event = config.events.first().and_then(|event| event.secrets.first());
    jwt.cloned()
        .zip(event.cloned())
        .ok_or_else(|| CommandFailure(EXIT_USAGE, "the demo's configuration has no secrets".into()))
}

fn demo_introduction(gateway: &str, admin: Option<SocketAddr>, token: &str) -> String {
    let admin = admin.map_or_else(String::new, |a| format!("http://{a}"));
    format!(
        "gateway: {gateway}\n\
         metrics: {admin}/metrics\n\
         dashboard: {gateway}/?tenant=acme&user=alice\n\
         \n\
         A token of tenant acme (valid for 6 h; this is a demo, its secret is in conf/demo.toml):\n\
         {token}\n\
         \n\
         Try, twice, and watch Cache-Status:\n\
         curl -i {gateway}/api/widgets/kpi\n\
         curl -i -H 'Authorization: Bearer {token}' {gateway}/api/widgets/kpi\n\
         curl -i -X POST -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' \
         -d '{{\"amount\": 9900}}' {gateway}/orders\n"
    )
}
