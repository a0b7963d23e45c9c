use crate::config::{Config, ListenerConfig, LoadedConfig};
use rcgen::{date_time_ymd, CertificateParams, KeyPair};
use std::path::Path;
use tempfile::TempDir;

/// A directory with `a.crt`, `a.key`, `ca.crt` and what a test adds.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.certificate("a", |_| {});
        std::fs::copy(place.path("a.crt"), place.path("ca.crt")).unwrap();
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn certificate(&self, name: &str, adjust: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        adjust(&mut params);
        std::fs::write(self.path(&format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Loads these listeners and describes each in one line.
    fn load(&self, listeners: &str) -> Result<LoadedConfig, Vec<String>> {
        let text = format!("listener = [{listeners}]\n[[origin]]\nname = \"app\"\nservers = \"http://a\"\n[[route]]\npath = \"/*\"\norigin = \"app\"\n");
        let file = self.path("c.toml").display().to_string();
        Config::parse(&text, &file, &|_| None).map_err(|faults| {
            faults.list().iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect()
        })
    }

    fn listeners(&self, listeners: &str) -> Vec<ListenerConfig> {
        self.load(listeners).unwrap_or_else(|faults| panic!("{faults:?}")).config.listeners
    }

    fn faults(&self, listeners: &str) -> Vec<String> {
        self.load(listeners).expect_err("a fault")
    }

    fn warnings(&self, listeners: &str) -> Vec<String> {
        let LoadedConfig { warnings, .. } =
            self.load(listeners).unwrap_or_else(|faults| panic!("{faults:?}"));
        let message = |line: String| line.split(": ").skip(1).collect::<Vec<_>>().join(": ");
        warnings.into_iter().map(message).collect()
    }
}

const PLAIN: &str = "{ address = \"127.0.0.1:80\" }";
const A: &str = "{ cert = \"a.crt\", key = \"a.key\" }";

fn tls(more: &str) -> String {
    format!("{{ address = \"127.0.0.1:443\", certificates = [{A}]{more} }}")
}

#[test]
fn what_is_left_out_is_off_and_http2_comes_with_tls() {
    let place = Place::new();
    let [plain, secure] = place.listeners(&format!("{PLAIN}, {}", tls(""))).try_into().unwrap();
    assert_eq!((plain.tls, plain.http2, plain.redirect_to, plain.hsts), (None, false, None, None));
    assert!(secure.http2 && !secure.proxy_protocol && secure.hsts.is_none());
    let files = secure.tls.unwrap();
    assert_eq!(files.certificates[0].cert, place.path("a.crt"));
    assert_eq!(files.clients, None);
    assert!(!place.listeners(&tls(", http2 = false"))[0].http2);
    assert!(place.listeners("{ address = \"127.0.0.1:80\", http2 = true, proxy_protocol = true }")[0].http2);
}

#[test]
fn requests_are_sent_to_the_first_listener_with_tls() {
    let place = Place::new();
    let redirecting = "{ address = \"127.0.0.1:80\", redirect_to_https = true }";
    assert_eq!(place.listeners(&format!("{redirecting}, {}", tls("")))[0].redirect_to, Some(1));
    assert_eq!(
        place.faults(redirecting),
        ["listener[0].redirect_to_https: there is no listener with certificates to send anyone to"]
    );
    assert_eq!(
        place.faults(&tls(", redirect_to_https = true")),
        ["listener[0].redirect_to_https: this listener speaks TLS itself"]
    );
}

#[test]
fn hsts_is_written_as_the_rfc_has_it() {
    let place = Place::new();
    let hsts = |text: &str| place.listeners(&tls(&format!(", hsts = {text}")))[0].hsts.clone().unwrap();
    assert_eq!(hsts("{}"), "max-age=31536000");
    assert_eq!(hsts("{ max_age = \"0s\" }"), "max-age=0");
    assert_eq!(hsts("{ max_age = \"1d\", include_subdomains = true }"), "max-age=86400; includeSubDomains");
    assert_eq!(
        hsts("{ max_age = \"365d\", include_subdomains = true, preload = true }"),
        "max-age=31536000; includeSubDomains; preload"
    );
    assert_eq!(
        place.faults("{ address = \"127.0.0.1:80\", hsts = {} }"),
        ["listener[0].hsts: needs certificates: this listener speaks no TLS"]
    );
    assert_eq!(
        place.warnings(&tls(", hsts = { preload = true }")),
        ["listener[0].hsts: preload lists take only hosts with include_subdomains and max_age of at least 365d"]
    );
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_at_its_key() {
    let place = Place::new();
    place.certificate("b", |_| {});
    std::fs::write(place.path("empty"), "").unwrap();
    let fault = |cert: &str, key: &str, more: &str| {
        let listener = format!(
            "{{ address = \"127.0.0.1:443\", certificates = [{{ cert = {cert:?}, key = {key:?}{more} }}] }}"
        );
        place.faults(&listener).join("\n")
    };
    let at = "listener[0].certificates[0]";
    assert!(fault("gone.crt", "a.key", "")
        .starts_with(&format!("{at}.cert: \"gone.crt\": can't be read: No such file")));
    assert!(fault("a.crt", "gone.key", "")
        .starts_with(&format!("{at}.key: \"gone.key\": can't be read: No such file")));
    assert!(fault("empty", "a.key", "").starts_with(&format!("{at}.cert: \"empty\": holds no certificate")));
    assert!(fault("a.crt", "empty", "").starts_with(&format!("{at}.key: \"empty\": holds no private key")));
    assert_eq!(
        fault("a.crt", "b.key", ""),
        format!("{at}.key: \"b.key\": the key does not belong to the certificate")
    );
    assert_eq!(
        fault("a.crt", "a.key", ", ocsp = \"a.crt\""),
        format!("{at}.ocsp: \"a.crt\": is no OCSP response in DER")
    );
    assert_eq!(
        place.faults("{ address = \"127.0.0.1:443\", certificates = [] }"),
        ["listener[0].certificates: must hold at least one"]
    );
    assert_eq!(
        place.faults("{ address = \"127.0.0.1:443\", certificates = [{}] }"),
        [format!("{at}.cert: missing"), format!("{at}.key: missing")]
    );
}

#[test]
fn a_certificate_that_nobody_will_take_is_warned_about() {
    let place = Place::new();
    place.certificate("old", |params| params.not_after = date_time_ymd(2020, 1, 1));
    place.certificate("new", |params| params.not_before = date_time_ymd(3000, 1, 1));
    place.certificate("mute", |params| params.subject_alt_names.clear());
    let warned = |name: &str| {
        let second = format!("{{ cert = \"{name}.crt\", key = \"{name}.key\" }}");
        place
            .warnings(&format!("{{ address = \"127.0.0.1:443\", certificates = [{A}, {second}] }}"))
            .join("\n")
    };
    assert!(warned("old").starts_with("listener[0].certificates[1].cert: expired "), "{}", warned("old"));
    assert!(warned("new").contains("is not valid yet"), "{}", warned("new"));
    assert!(warned("mute").contains("it is never chosen"), "{}", warned("mute"));
    assert_eq!(warned("a"), "");
}

#[test]
fn clients_are_asked_by_authorities_that_are_there() {
    let place = Place::new();
    let clients = |text: &str| {
        let [listener] =
            place.listeners(&tls(&format!(", client_certificates = {text}"))).try_into().unwrap();
        listener.tls.unwrap().clients.unwrap()
    };
    let plain = clients("{ ca = \"ca.crt\" }");
    assert!(plain.required && plain.header.is_none());
    assert_eq!(plain.ca, place.path("ca.crt"));
    let told = clients("{ ca = \"ca.crt\", required = false, header = \"X-Client-Subject\" }");
    assert_eq!((told.required, told.header.unwrap().as_str()), (false, "x-client-subject"));
    let fault = |text: &str| place.faults(&tls(&format!(", client_certificates = {text}"))).join("\n");
    let at = "listener[0].client_certificates";
    assert_eq!(fault("{}"), format!("{at}.ca: missing"));
    assert_eq!(
        fault("{ ca = \"a.key\" }"),
        format!("{at}.ca: \"a.key\": holds no certificate (-----BEGIN CERTIFICATE-----)")
    );
    for taken in ["Host", "X-Tenant", "X-Forwarded-For", "If-Match", "Accept"] {
        assert_eq!(
            fault(&format!("{{ ca = \"ca.crt\", header = {taken:?} }}")),
            format!("{at}.header: this field has a meaning already")
        );
    }
    assert!(fault("{ ca = \"ca.crt\", header = \"a b\" }").contains("must be the name of a header field"));
    for name in ["x_subject", "x.subject"] {
        assert!(
            fault(&format!("{{ ca = \"ca.crt\", header = \"{name}\" }}")).contains("must be of letters"),
            "{name}"
        );
    }
    let plain = "{ address = \"127.0.0.1:80\", client_certificates = { ca = \"ca.crt\" } }";
    assert_eq!(place.faults(plain), [format!("{at}: needs certificates: this listener speaks no TLS")]);
}

#[test]
fn paths_begin_at_the_configuration_and_may_be_absolute() {
    let place = Place::new();
    let absolute = |name: &str| place.path(name).display().to_string();
    let listener = format!(
        "{{ address = \"127.0.0.1:443\", certificates = [{{ cert = {:?}, key = {:?} }}] }}",
        absolute("a.crt"),
        absolute("a.key")
    );
    assert!(place.listeners(&listener)[0].tls.as_ref().unwrap().certificates[0]
        .cert
        .starts_with(Path::new("/")));
}
