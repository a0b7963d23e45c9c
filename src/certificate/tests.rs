use super::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use tempfile::TempDir;

/// RSA in both forms, and ECDSA in the form of SEC 1, as `openssl genrsa -traditional` and `openssl ecparam`
/// write.
const RSA_PKCS1: &str = include_str!("test_keys/rsa_pkcs1.pem");
const RSA_PKCS8: &str = include_str!("test_keys/rsa_pkcs8.pem");
const EC_SEC1: &str = include_str!("test_keys/ec_sec1.pem");
const RSA_OLD_ENCRYPTED: &str = include_str!("test_keys/rsa_old_encrypted.pem");
const RSA_1024: &str = include_str!("test_keys/rsa_1024.pem");
/// Certificates of the first and the third.
const RSA_CERT: &str = include_str!("test_keys/rsa_cert.pem");
const EC_CERT: &str = include_str!("test_keys/ec_cert.pem");

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, cert: &str, key: &str) -> Result<ServerCertificate, CertificateError> {
        let (cert, key) = (self.put("c.pem", cert), self.put("k.pem", key));
        ServerCertificate::load(&CertificatePaths { cert, key, ocsp: None })
    }

    /// The faulty file, and the text of the fault.
    fn fault(&self, cert: &str, key: &str) -> (CertificatePart, String) {
        let error = self.load(cert, key).unwrap_err();
        (error.part, error.fault.to_string())
    }
}

fn made(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    (CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn names_come_from_the_certificate_and_addresses_are_none() {
    let (cert, key) = made(&["Dash.Example", "*.dash.example", "dash.example", "10.0.0.1"]);
    let loaded = Directory::new().load(&cert, &key).unwrap();
    assert_eq!(loaded.names, ["dash.example", "*.dash.example"]);
    assert!(loaded.not_before < loaded.not_after);
    assert!(loaded.key.ocsp.is_none());
}

#[test]
fn every_form_of_a_key_is_read() {
    let directory = Directory::new();
    for (cert, key) in [(RSA_CERT, RSA_PKCS1), (RSA_CERT, RSA_PKCS8), (EC_CERT, EC_SEC1)] {
        directory.load(cert, key).unwrap_or_else(|error| panic!("{error}"));
    }
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let cert = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        directory.load(&cert.pem(), &key.serialize_pem()).unwrap_or_else(|error| panic!("{error}"));
    }
    // One file with all of it.
    let (cert, key) = made(&["a"]);
    let both = directory.put("both.pem", format!("{key}{cert}"));
    ServerCertificate::load(&CertificatePaths { cert: both.clone(), key: both, ocsp: None }).unwrap();
}

#[test]
fn what_is_wrong_is_said_of_the_right_file() {
    let directory = Directory::new();
    let (cert, key) = made(&["a.example"]);
    let (other, _) = made(&["b.example"]);
    let is = |found: (CertificatePart, String), part: CertificatePart, text: &str| {
        assert_eq!(found.0, part, "{found:?}");
        assert!(found.1.contains(text), "{found:?}");
    };
    is(directory.fault("", &key), CertificatePart::Cert, "holds no certificate");
    is(directory.fault(&key, &key), CertificatePart::Cert, "holds no certificate");
    is(directory.fault(&cert.replace("-----END", "-----DNE"), &key), CertificatePart::Cert, "is damaged");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    is(directory.fault(nonsense, &key), CertificatePart::Cert, "can't be parsed");
    is(directory.fault(&cert, ""), CertificatePart::Key, "holds no private key");
    is(directory.fault(&cert, &cert), CertificatePart::Key, "holds no private key");
    is(directory.fault(&cert, RSA_OLD_ENCRYPTED), CertificatePart::Key, "encrypted");
    let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    is(directory.fault(&cert, new), CertificatePart::Key, "encrypted");
    is(directory.fault(&cert, RSA_1024), CertificatePart::Key, "can't be used");
    is(directory.fault(&other, &key), CertificatePart::Key, "does not belong to the certificate");
    is(
        directory.fault(&format!("{other}{cert}"), &key),
        CertificatePart::Key,
        "belongs to certificate 2 of the file",
    );
    is(directory.fault(&cert, &"x".repeat(2 << 20)), CertificatePart::Key, "larger than 1 MiB");
    assert!(directory.load(&format!("{cert}{other}"), &key).is_ok());
}

/// A certificate after it would be skipped: in a chain, the next one would be taken for the server's.
#[test]
fn a_byte_order_mark_is_named() {
    let directory = Directory::new();
    let ((cert, key), (other, _)) = (made(&["a.example"]), made(&["b.example"]));
    let wide: Vec<u8> = format!("\u{feff}{cert}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf_16 = directory.put("wide.pem", wide);
    let joined = format!("{cert}\u{feff}{other}");
    let line = cert.lines().count() + 1;
    for (cert, key, part, told) in [
        (
            format!("\u{feff}{cert}"),
            key.clone(),
            CertificatePart::Cert,
            "a byte order mark (U+FEFF) in line 1:".to_owned(),
        ),
        (joined.clone(), key.clone(), CertificatePart::Cert, format!("in line {line}:")),
        (cert.clone(), format!("\u{feff}{key}"), CertificatePart::Key, "in line 1:".to_owned()),
    ] {
        let found = directory.fault(&cert, &key);
        assert_eq!(found.0, part, "{found:?}");
        assert!(found.1.contains(&told), "{found:?}");
    }
    for (path, told) in [(directory.put("ca.pem", joined), "byte order mark"), (utf_16, "UTF-16")] {
        let error = read_authorities(&path).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = Directory::new();
    let key = directory.put("k.pem", made(&["a"]).1);
    let cert = directory.0.path().join("missing.pem");
    let error =
        ServerCertificate::load(&CertificatePaths { cert: cert.clone(), key: key.clone(), ocsp: None })
            .unwrap_err();
    assert_eq!(error.part, CertificatePart::Cert);
    assert!(error.to_string().contains("missing.pem: can't be read: "), "{error}");
    let folder = directory.0.path().to_owned();
    assert!(ServerCertificate::load(&CertificatePaths { cert: folder, key, ocsp: None }).is_err());
}

#[test]
fn no_message_shows_a_key() {
    let directory = Directory::new();
    let (cert, key) = made(&["a"]);
    let secret = key.lines().nth(1).unwrap();
    for broken in [
        key.replace("BEGIN", "BEGINN"),
        key.replace('=', "?"),
        key.replace("-----END", "-----"),
        format!("{secret}\n{key}"),
    ] {
        if let Err(error) = directory.load(&cert, &broken) {
            let text = format!("{error} {error:?}");
            assert!(!text.contains(&secret[..10]), "{text}");
        }
    }
}

#[test]
fn a_staple_is_a_response_and_fills_its_file() {
    let answer = [&[0x30, 0x82, 0x01, 0x03, 0x0a, 0x01, 0x00][..], &[0; 256]].concat();
    assert!(check_staple(answer.clone()).is_ok());
    assert!(check_staple(answer[..200].to_vec()).is_err());
    assert!(check_staple([&answer[..], &[0]].concat()).is_err());
    assert!(check_staple(vec![0x30, 0x03, 0x0a, 0x01, 0x00]).is_ok());
    // "Try later" is no staple.
    assert!(check_staple(vec![0x30, 0x03, 0x0a, 0x01, 0x03]).is_err());
    for nothing in [&b""[..], b"0", b"-----BEGIN OCSP RESPONSE-----", &[0x30, 0x81], &[0x30, 0x82, 0x01]] {
        assert!(check_staple(nothing.to_vec()).is_err());
    }
}

#[test]
fn authorities_are_certificates() {
    let directory = Directory::new();
    let (cert, key) = made(&["a"]);
    let path = directory.put("ca.pem", format!("{cert}{cert}"));
    assert_eq!(read_authorities(&path).unwrap().len(), 2);
    let path = directory.put("ca.pem", key);
    assert_eq!(read_authorities(&path).unwrap_err().part, CertificatePart::Ca);
}
