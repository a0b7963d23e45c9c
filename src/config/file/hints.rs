//! Hints for terms of other programs: nginx's keys, other forms of addresses and variables, with their names
//! here; and the choice of words of a file that a message may show.

/// The key here that does what a key of nginx does.
pub(crate) fn of_nginx(key: &str) -> Option<&'static str> {
    Some(match key {
        "proxy_pass" | "uwsgi_pass" | "fastcgi_pass" | "grpc_pass" => {
            "origin = \"name\", whose servers stand under [[origin]]"
        }
        "location" => "[[route]] with path, such as \"/api/*\"",
        "upstream" => "[[origin]] with name and servers",
        "http" | "events" | "stream" => "nothing: the tables stand at the top",
        "listen" => "[[listener]] with address",
        "server_name" => "host, under [[route]]",
        "root" | "alias" | "try_files" => "files = { root = \"…\" }, under [[route]]",
        "index" | "autoindex" => "files = { root = \"…\", index = \"…\" }, under [[route]]",
        "ssl_certificate" | "ssl_certificate_key" => {
            "certificates = [{ cert = \"…\", key = \"…\" }], under [[listener]]"
        }
        "ssl_client_certificate" | "ssl_verify_client" => {
            "client_certificates = { ca = \"…\" }, under [[listener]]"
        }
        "proxy_cache" | "proxy_cache_valid" | "proxy_cache_key" | "proxy_cache_path" => {
            "cache = { namespace = \"…\", ttl = \"20s\" } or cache = \"origin\", under [[route]]"
        }
        "proxy_read_timeout" | "proxy_send_timeout" => "read_timeout, under [[origin]]",
        "proxy_connect_timeout" => "connect_timeout, under [[origin]]",
        "proxy_next_upstream" | "proxy_next_upstream_tries" => "retries, under [[origin]]",
        "proxy_set_header" => "request_headers = { set = { \"X-Name\" = \"…\" } }",
        "add_header" | "more_set_headers" => "response_headers = { set = { \"X-Name\" = \"…\" } }",
        "proxy_hide_header" => "response_headers = { remove = \"X-Name\" }",
        "client_max_body_size" => "max_body, under [[route]]",
        "client_header_timeout" => "header_timeout, under [server]",
        "client_body_timeout" => "body_timeout, under [server]",
        "keepalive_timeout" => "keepalive, under [server]",
        "send_timeout" => "send_timeout, under [server]",
        "worker_processes" | "worker_connections" => "threads and max_connections, under [server]",
        "limit_req" | "limit_req_zone" => "limit = { rate = \"10/s\" }, under [[route]]",
        "limit_conn" | "limit_conn_zone" => "max_connections_per_address, under [server]",
        "limit_except" => "methods, under [[route]]",
        "set_real_ip_from" | "real_ip_header" => "trusted_proxies, under [server]",
        "gzip" | "gzip_types" | "brotli" => "[encoding]",
        "access_log" | "error_log" | "log_format" => "[log]; lines go to standard error",
        "auth_jwt" | "auth_request" => "[jwt], and auth = \"required\" under [[route]]",
        "secure_link" | "secure_link_md5" => "signed = { secret = … }, under [[route]]",
        "internal" => "[[accel]] with internal",
        "expires" => "response_headers = { set = { \"Cache-Control\" = \"…\" } }",
        "ip_hash" | "least_conn" | "hash" => "balance, under [[origin]]",
        _ => return None,
    })
}

/// The name in `$NAME` or `${NAME}`, as a shell or a template would replace it. Variables of header rules are
/// in lower case.
pub(crate) fn shell_variable(text: &str) -> Option<&str> {
    let name = text.split_once('$')?.1;
    let end = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let name = match name.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?.0,
        None => &name[..name.find(end).unwrap_or(name.len())],
    };
    (is_variable_name(name)).then_some(name)
}

/// Returns true if a text is probably the name of a variable (`JWT_SECRET`), and not a secret in its place:
/// those have lower case letters, or capitals and digits without a `_`.
pub(crate) fn is_variable_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_uppercase() || b == b'_');
    let plain = text.contains('_') || text.len() <= 16 && !text.bytes().any(|b| b.is_ascii_digit());
    begins && plain && text.len() <= 64 && text.bytes().all(fits)
}

/// Returns true if a text is a path, and probably not a secret in its place.
pub(crate) fn is_plain_path(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let begins = ["/", "./", "../"].iter().any(|begin| text.starts_with(begin));
    let ends = [".key", ".pem", ".txt", ".secret", ".token", ".env"].iter().any(|end| text.ends_with(end));
    let short = |part: &str| part.len() <= 32;
    (begins || ends) && text.bytes().all(fits) && text.split('/').all(short)
}

/// Formats a path for a message: quoted, or only described if it could be a file's content put in the wrong
/// place.
pub(crate) fn shown_path(path: &str) -> String {
    let is_content = path.len() > 200 || path.contains("-----") || path.chars().any(char::is_control);
    if is_content {
        "what stands here".to_owned()
    } else {
        format!("{path:?}")
    }
}

/// Formats a word of the file for a message: quoted, or only described if it could be a secret put in the
/// wrong place.
pub(crate) fn shown(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " _-./:*".contains(c);
    match word.chars().count() <= 32 && word.chars().all(plain) {
        true => format!("{word:?}"),
        false => format!("of {} bytes", word.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_shell_are_told_from_text() {
        for (text, name) in [
            ("$JWT_SECRET", Some("JWT_SECRET")),
            ("${JWT_SECRET}", Some("JWT_SECRET")),
            ("redis://:$REDIS_PASSWORD@h", Some("REDIS_PASSWORD")),
            ("http://${HOST}:80", Some("HOST")),
            ("$tenant", None),
            ("${tenant}", None),
            ("pa$$word", None),
            ("$", None),
            ("${", None),
            ("$5", None),
            ("plain", None),
        ] {
            assert_eq!(shell_variable(text), name, "{text}");
        }
    }

    #[test]
    fn what_could_be_a_secret_is_not_shown() {
        for name in ["JWT_SECRET", "SECRET", "_X", "REDIS_URL_2"] {
            assert!(is_variable_name(name), "{name}");
        }
        for secret in [
            "hunter2",
            "JBSWY3DPEHPK3PXP",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "",
            "s3cr3t",
            "A-B",
            "ABCDEFGHIJKLMNOPQ",
        ] {
            assert!(!is_variable_name(secret), "{secret}");
        }
        for path in ["/run/secrets/jwt", "./jwt.key", "../keys/a-b_c.pem", "jwt.key", "keys/jwt.txt"] {
            assert!(is_plain_path(path), "{path}");
        }
        for secret in [
            "hunter2",
            "/9j4AAQSkZJRgABAQAAAQABAADpQWERTYUIOP",
            "a/b+c=",
            "/a b",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
        ] {
            assert!(!is_plain_path(secret), "{secret}");
        }
        assert_eq!(shown_path("/etc/tls/a b.key"), "\"/etc/tls/a b.key\"");
        for content in ["-----BEGIN PRIVATE KEY-----", "MC4CAQAw\n", &"A".repeat(300)] {
            assert_eq!(shown_path(content), "what stands here");
        }
        assert_eq!(shown("app"), "\"app\"");
        assert_eq!(shown("s3cr3t+with/signs="), "of 18 bytes");
        assert!(!shown(&"x".repeat(40)).contains('x'));
    }
}
