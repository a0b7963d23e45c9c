//! Gateway processes: a configuration written as TOML, the real binary run on it.

use super::{
    client::{client, send, try_send, Reply},
    free_address,
    metrics::Metrics,
    process::Process,
    until,
    webhook::Message,
    TestOrigin, SOON,
};
use base64::{prelude::BASE64_STANDARD, Engine};
use nix::sys::signal::Signal;
use std::{
    fmt::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus, Output},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The secret that tokens are signed with.
pub const JWT_SECRET: &str = "a-secret-of-the-tests-with-more-than-32-bytes";
/// The key that events are signed with; the configuration has it as `whsec_<base64>`.
pub const EVENT_KEY: &[u8] = b"the key that events are signed with";

/// Makes the configuration of a gateway: listener, admin, one origin, HS256 tokens, and what is added.
#[derive(Debug, Clone)]
pub struct GatewayBuilder {
    servers: Vec<String>,
    drain: String,
    origin: String,
    store: String,
    jwt: String,
    rest: String,
    settings: String,
    access: bool,
    log: Option<String>,
    environment: Vec<(String, String)>,
}

/// `cache = {…}` of namespace `kpi`, scope `tenant`, a minute of freshness, ten of `stale_if_error`.
pub const KPI: &str = r#"cache = { namespace = "kpi", scope = "tenant", ttl = "60s", stale_if_error = "10m", query = ["range"] }"#;

impl GatewayBuilder {
    /// In front of this server (`http://…`).
    pub fn new(server: &str) -> Self {
        Self {
            servers: vec![server.to_owned()],
            drain: "2s".to_owned(),
            origin: String::new(),
            store: String::new(),
            jwt: "algorithms = [\"HS256\"]\nsecret = { env = \"JWT_SECRET\" }\n".to_owned(),
            rest: String::new(),
            settings: String::new(),
            access: false,
            log: None,
            environment: Vec::new(),
        }
    }

    /// With another `drain` than 2 s.
    pub fn drain(mut self, time: &str) -> Self {
        time.clone_into(&mut self.drain);
        self
    }

    /// Lines of `[server]`, as `header_timeout = "1s"`.
    pub fn setting(mut self, line: &str) -> Self {
        writeln!(self.settings, "{line}").unwrap();
        self
    }

    /// With access records, in the output.
    pub fn access(mut self) -> Self {
        self.access = true;
        self
    }

    /// With this `RUST_LOG`.
    pub fn log(mut self, filter: &str) -> Self {
        self.log = Some(filter.to_owned());
        self
    }

    /// A further server of the origin.
    pub fn server(mut self, url: &str) -> Self {
        self.servers.push(url.to_owned());
        self
    }

    /// Lines of `[[origin]]`, as `read_timeout = "1s"`.
    pub fn origin(mut self, line: &str) -> Self {
        writeln!(self.origin, "{line}").unwrap();
        self
    }

    /// Lines of `[store]`, as `memory = "1MiB"`.
    pub fn store(mut self, line: &str) -> Self {
        writeln!(self.store, "{line}").unwrap();
        self
    }

    /// With this Redis (URL of a server or of a sentinel).
    pub fn redis(self, url: &str) -> Self {
        self.store(&format!("redis = {url:?}"))
    }

    /// With these seeds of a cluster.
    pub fn cluster(self, urls: &[String]) -> Self {
        self.store(&format!("redis = {urls:?}"))
    }

    /// Lines of `[jwt]`.
    pub fn jwt(mut self, line: &str) -> Self {
        writeln!(self.jwt, "{line}").unwrap();
        self
    }

    /// `[jwt]` with a key set instead of a secret.
    pub fn jwks(mut self, algorithm: &str, place: &str) -> Self {
        self.jwt = format!("algorithms = [{algorithm:?}]\njwks = {{ {place} }}\n");
        self
    }

    /// A route with these further lines.
    pub fn route(mut self, path: &str, lines: &str) -> Self {
        writeln!(self.rest, "[[route]]\npath = {path:?}\norigin = \"app\"\n{lines}").unwrap();
        self
    }

    /// The event `/internal/events/<name>` that bumps these namespaces, hardly limited in rate.
    pub fn event(self, name: &str, bump: &[&str]) -> Self {
        self.event_with(name, &format!("bump = {bump:?}\nrate = 100000"))
    }

    /// An event with these lines besides `path` and `secret`.
    pub fn event_with(mut self, name: &str, lines: &str) -> Self {
        let secret = "secret = { env = \"EVENT_SECRET\" }";
        writeln!(self.rest, "[[event]]\npath = \"/internal/events/{name}\"\n{secret}\n{lines}").unwrap();
        self
    }

    /// Any other TOML, at the end of the file.
    pub fn raw(mut self, toml: &str) -> Self {
        writeln!(self.rest, "{toml}").unwrap();
        self
    }

    /// A variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file's text.
    pub fn toml(&self, listener: SocketAddr, admin: SocketAddr) -> String {
        let Self { servers, drain, origin, store, jwt, rest, settings, access, .. } = self;
        format!(
            "[server]\nthreads = 2\ndrain = {drain:?}\n{settings}\
             [[listener]]\naddress = \"{listener}\"\n\
             [admin]\naddress = \"{admin}\"\n\
             [log]\nformat = \"text\"\naccess = {access}\n\
             [store]\n{store}\
             [jwt]\n{jwt}\
             [[origin]]\nname = \"app\"\nservers = {servers:?}\n{origin}\
             {rest}"
        )
    }

    /// Runs the gateway and waits until it is ready.
    pub async fn start(&self) -> Gateway {
        let mut last = String::new();
        for _ in 0..5 {
            let (address, admin) = (free_address(), free_address());
            match Gateway::launch(&self.toml(address, admin), address, admin, self).await {
                Ok(gateway) => return gateway,
                // Somebody may have taken a port in between; any other reason comes again at once.
                Err(output) => last = output,
            }
        }
        panic!("the gateway does not start:\n{last}");
    }
}

/// One running gateway.
pub struct Gateway {
    address: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
    process: Process,
    client: reqwest::Client,
}

impl Gateway {
    /// In front of this origin.
    pub fn with(origin: &TestOrigin) -> GatewayBuilder {
        GatewayBuilder::new(&origin.url())
    }

    async fn launch(
        toml: &str,
        address: SocketAddr,
        admin: SocketAddr,
        builder: &GatewayBuilder,
    ) -> Result<Self, String> {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, toml).unwrap();
        let mut command = tidegate(&["run", "--config", file.to_str().unwrap()]);
        command.envs(builder.log.as_ref().map(|filter| ("RUST_LOG", filter)));
        command.envs(builder.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::spawn("tidegate", &mut command);
        let mut gateway = Self { address, admin, dir, process, client: client() };
        let end = Instant::now() + 2 * SOON;
        loop {
            if gateway.process.ended().is_some() {
                return Err(format!("{}\n{toml}", gateway.process.last_output()));
            }
            let ready = gateway.client.get(gateway.admin_url("/readyz")).timeout(SOON);
            let answered = try_send(ready).await.is_ok_and(|reply| reply.status == 200);
            // Somebody else may have taken the port, and answer there.
            if answered && gateway.output().contains("listening") {
                return Ok(gateway);
            }
            assert!(Instant::now() < end, "the gateway is not ready:\n{}\n{toml}", gateway.process.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `http://127.0.0.1:<port><path>`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same on the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where all of its listeners are, in the configuration's order, once there are `n` of them.
    pub async fn listeners(&self, n: usize) -> Vec<SocketAddr> {
        let listening =
            |line: &str| line.contains("listening").then(|| line.split("address=").nth(1)?.parse().ok())?;
        super::eventually("all listeners are told", SOON, || async {
            let found: Vec<SocketAddr> = self.output().lines().filter_map(listening).collect();
            (found.len() == n).then_some(found)
        })
        .await
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    /// The client whose connections it keeps.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A request to it.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    /// GET without a token.
    pub async fn get(&self, path: &str) -> Reply {
        send(self.request("GET", path)).await
    }

    /// GET with these fields.
    pub async fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.send_with("GET", path, fields).await
    }

    /// A request with these fields.
    pub async fn send_with(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let request = self.request(method, path);
        send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// Orders a purge by the admin listener.
    pub async fn purge(&self, order: &serde_json::Value) -> Reply {
        send(self.client.post(self.admin_url("/api/purge")).json(order)).await
    }

    /// GET as user `ann` of this tenant.
    pub async fn get_as(&self, tenant: &str, path: &str) -> Reply {
        send(self.request("GET", path).bearer_auth(token(tenant, "ann"))).await
    }

    /// The values of its metrics.
    pub async fn metrics(&self) -> Metrics {
        let reply = send(self.client.get(self.admin_url("/metrics"))).await.ok();
        Metrics::parse(std::str::from_utf8(&reply.body).unwrap())
    }

    /// Returns true if it is linked with all of its store, and gets reports of changes.
    pub async fn is_linked(&self) -> bool {
        (self.metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
    }

    /// Sends the signed event `/internal/events/<name>`.
    pub async fn event(&self, name: &str, body: &serde_json::Value) -> Reply {
        send(self.event_request(name, &Message::new(body.to_string()))).await
    }

    /// A signed event, to be sent.
    pub fn event_request(&self, name: &str, message: &Message) -> reqwest::RequestBuilder {
        message.request(&self.client, &self.url(&format!("/internal/events/{name}")), EVENT_KEY)
    }

    /// Bumps by the event `order_created` for this tenant, and holds that it is acknowledged. As any sender, it tries
    /// again where the store did not answer in time.
    pub async fn bump(&self, tenant: &str) {
        until("the event is acknowledged", SOON, || async {
            let reply = self.event("order_created", &serde_json::json!({ "tenant": tenant })).await;
            assert!(reply.status.is_success() || reply.status == 503, "{reply:?}");
            reply.status != 503
        })
        .await;
    }

    /// Writes another configuration, has it read, and waits until the gateway has decided: whether it goes by it.
    pub async fn reload(&self, builder: &GatewayBuilder) -> bool {
        let before = self.reloads().await;
        std::fs::write(self.config(), builder.toml(self.address, self.admin)).unwrap();
        self.process.signal(Signal::SIGHUP);
        until("the configuration is read", SOON, || async { self.reloads().await != before }).await;
        self.reloads().await.0 > before.0
    }

    /// Configurations that were read while it runs: those it went by, and those with a fault.
    async fn reloads(&self) -> (f64, f64) {
        let metrics = self.metrics().await;
        let read = |result| metrics.value("tidegate_config_reloads_total", &[("result", result)]);
        (read("applied"), read("refused"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGTERM
    pub fn sigterm(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Kills it, and starts another one in its place.
    pub async fn replace(&mut self, builder: &GatewayBuilder) {
        self.process.kill();
        let toml = builder.toml(self.address, self.admin);
        let started = Self::launch(&toml, self.address, self.admin, builder).await;
        *self = started.unwrap_or_else(|output| panic!("another one does not start:\n{output}"));
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).await
    }

    /// All that it has written (the last lines of it), once it has ended.
    pub fn last_output(&mut self) -> String {
        self.process.last_output()
    }

    /// Stops or goes on reading its output: what it writes meanwhile fills the pipe.
    pub fn read_output(&self, read: bool) {
        self.process.read_output(read);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its resident memory in bytes: now, and the most that it ever was.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            value.unwrap_or_else(|| panic!("no {name} in {status}")).parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Its last lines of output.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until its output has this text.
    pub async fn says(&self, text: &str) {
        let end = Instant::now() + SOON;
        while !self.output().contains(text) {
            assert!(Instant::now() < end, "no {text:?} in:\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Holds that the process lives, is ready and that nothing in it has panicked.
    pub async fn assert_sound(&mut self) {
        assert_eq!(self.process.ended(), None, "the gateway has ended:\n{}", self.output());
        let (client, url) = (self.client.clone(), self.admin_url("/readyz"));
        until("the gateway is ready", SOON, || {
            let request = client.get(&url);
            async move { try_send(request).await.is_ok_and(|reply| reply.status == 200) }
        })
        .await;
        assert!(!self.output().contains("panicked at"), "a panic:\n{}", self.output());
    }
}

/// A token (HS256) of this tenant and user, role `viewer`, for an hour.
pub fn token(tenant: &str, user: &str) -> String {
    sign(&serde_json::json!({
        "sub": user, "tenant": tenant, "role": "viewer", "exp": super::now_ms() / 1000 + 3600,
    }))
}

/// A token (HS256) with these claims.
pub fn sign(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(JWT_SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// The binary, to be run with these arguments and the tests' secrets in its environment. `TIDEGATE_BIN` names
/// another build of it, as a release build for the `load_` tests.
pub fn tidegate(arguments: &[&str]) -> Command {
    let built = std::env::var_os("TIDEGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into());
    let mut command = Command::new(built);
    command.args(arguments);
    command.env("JWT_SECRET", JWT_SECRET);
    command.env("EVENT_SECRET", format!("whsec_{}", BASE64_STANDARD.encode(EVENT_KEY)));
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    command
}

/// Runs the binary to its end, off the runtime.
pub async fn tidegate_output(arguments: &[&str]) -> Output {
    let mut command = tidegate(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
