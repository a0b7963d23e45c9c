//! Certificates in PEM files: their names, validity, keys and subjects.
//!
//! Reads and checks files; makes no decisions about connections, and never shows a key. A certificate is not
//! verified against an authority: clients do that (RFC 5280). Keys are PKCS#8, PKCS#1 or SEC1.

mod subject;

pub(crate) use subject::read_subject;

use rustls::{
    crypto::{aws_lc_rs, CryptoProvider},
    pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SigningKey},
    Error as TlsError, InconsistentKeys, RootCertStore,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The largest size of a file of certificates or of a key, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The cryptography of every listener: aws-lc-rs, with the post-quantum key exchange first.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Makes it the default of the process, for code that doesn't choose for itself (Redis, origins). Later calls
/// have no effect.
pub(crate) fn install_provider() {
    aws_lc_rs::default_provider().install_default().unwrap_or_default();
}

/// The paths of a certificate's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePaths {
    /// The certificate and its intermediates, in this order.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The OCSP response of its authority, in DER.
    pub ocsp: Option<PathBuf>,
}

/// A certificate that a listener can use.
#[derive(Debug, Clone)]
pub(crate) struct ServerCertificate {
    /// The chain, the key and the staple.
    pub key: Arc<CertifiedKey>,
    /// The DNS names that it is valid for, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// The start of its validity, in seconds since 1970.
    pub not_before: i64,
    /// The end of its validity, in seconds since 1970.
    pub not_after: i64,
}

/// The kind of file that a fault is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificatePart {
    /// The certificate.
    Cert,
    /// The key.
    Key,
    /// The staple.
    Ocsp,
    /// The authorities of clients.
    Ca,
}

/// The reason why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct CertificateError {
    /// The expected content.
    pub part: CertificatePart,
    /// The file.
    pub path: PathBuf,
    /// The fault.
    #[source]
    pub fault: UnusableFile,
}

/// A fault of a file.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFile {
    /// It does not exist, or may not be read.
    #[error("can't be read: {0}")]
    Unread(#[from] io::Error),
    /// It is far larger than such files are.
    #[error("is larger than 1 MiB")]
    TooLarge,
    /// The data after a byte order mark is not parsed: a certificate there would be ignored silently.
    #[error("has a byte order mark (U+FEFF) in line {0}: save it as UTF-8 without one, or as ASCII")]
    ByteOrderMark(usize),
    /// It is UTF-16.
    #[error("is UTF-16: save it as ASCII")]
    Utf16,
    /// It is not PEM.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// It holds no certificate.
    #[error("holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// A certificate in it can't be parsed.
    #[error("holds a certificate that can't be parsed")]
    Unparsable,
    /// It holds no key.
    #[error("holds no private key (-----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    NoKey,
    /// The key needs a passphrase.
    #[error("holds an encrypted key: nobody could type the passphrase at a start, store it decrypted")]
    Encrypted,
    /// The type of the key is not supported.
    #[error("holds a key that can't be used: RSA of 2048 to 8192 bits, ECDSA (P-256, P-384, P-521) and Ed25519 can")]
    Kind,
    /// The key belongs to another certificate.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// The key belongs to another certificate of the same file.
    #[error("the key belongs to certificate {0} of the file: the server's own has to come first")]
    Order(usize),
    /// It is no OCSP response.
    #[error("is no OCSP response in DER")]
    NotOcsp,
}

impl ServerCertificate {
    /// Reads a certificate, its key and its staple.
    ///
    /// # Errors
    /// The first file that can't be used, with the reason.
    pub(crate) fn load(files: &CertificatePaths) -> Result<Self, CertificateError> {
        let at = |part, path: &Path| {
            let path = path.to_owned();
            move |fault| CertificateError { part, path, fault }
        };
        let chain = read_file(&files.cert)
            .and_then(|pem| parse_chain(&pem))
            .map_err(at(CertificatePart::Cert, &files.cert))?;
        let key = read_file(&files.key)
            .and_then(|pem| parse_key(&pem))
            .map_err(at(CertificatePart::Key, &files.key))?;
        let facts = certificate_facts(&chain).map_err(at(CertificatePart::Cert, &files.cert))?;
        let mut certified = pair_key(chain, key).map_err(at(CertificatePart::Key, &files.key))?;
        if let Some(path) = &files.ocsp {
            certified.ocsp =
                Some(read_file(path).and_then(check_staple).map_err(at(CertificatePart::Ocsp, path))?);
        }
        let CertificateFacts { names, not_before, not_after } = facts;
        Ok(Self { key: Arc::new(certified), names, not_before, not_after })
    }
}

/// Reads the authorities that must have issued clients' certificates.
///
/// # Errors
/// The reason why the file can't be used.
pub(crate) fn read_authorities(path: &Path) -> Result<RootCertStore, CertificateError> {
    let roots = || {
        let mut roots = RootCertStore::empty();
        for certificate in parse_chain(&read_file(path)?)? {
            roots.add(certificate).map_err(|_| UnusableFile::Unparsable)?;
        }
        Ok(roots)
    };
    roots().map_err(|fault| CertificateError { part: CertificatePart::Ca, path: path.to_owned(), fault })
}

/// Reads a file that is expected to be small.
fn read_file(path: &Path) -> Result<Vec<u8>, UnusableFile> {
    // A device or a pipe could be endless.
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(UnusableFile::TooLarge);
    }
    Ok(std::fs::read(path)?)
}

/// Finds bytes that some editors add to text, and that PEM (RFC 7468) does not allow.
///
/// # Errors
/// If a line begins with a byte order mark: the first one, or another one in files that were joined.
pub(crate) fn check_encoding(pem: &[u8]) -> Result<(), UnusableFile> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if pem.starts_with(b"\xff\xfe") || pem.starts_with(b"\xfe\xff") {
        return Err(UnusableFile::Utf16);
    }
    match pem.split(|byte| *byte == b'\n').position(|line| line.starts_with(MARK)) {
        Some(line) => Err(UnusableFile::ByteOrderMark(line + 1)),
        None => Ok(()),
    }
}

/// The certificates of a file, at least one.
fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UnusableFile> {
    check_encoding(pem)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| UnusableFile::Damaged(error.to_string()))?;
    if all.is_empty() {
        return Err(UnusableFile::NoCertificate);
    }
    Ok(all)
}

/// The first key of a file.
fn parse_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, UnusableFile> {
    check_encoding(pem)?;
    let found = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound if is_encrypted(pem) => UnusableFile::Encrypted,
        rustls::pki_types::pem::Error::NoItemsFound => UnusableFile::NoKey,
        // An encrypted key in the old form has lines that are no base64. The text itself may be a key: it is
        // not shown.
        _ if is_encrypted(pem) => UnusableFile::Encrypted,
        _ => UnusableFile::Damaged("it is no PEM".to_owned()),
    })?;
    crypto_provider().key_provider.load_private_key(found).map_err(|_| UnusableFile::Kind)
}

fn is_encrypted(pem: &[u8]) -> bool {
    let holds = |text: &[u8]| pem.windows(text.len()).any(|window| window == text);
    holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED")
}

/// Combines a chain with the key of its first certificate.
fn pair_key(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<CertifiedKey, UnusableFile> {
    let fits = |chain: &CertifiedKey| match chain.keys_match() {
        // Some keys can't be compared; a handshake would show a mismatch.
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(true),
        Err(TlsError::InconsistentKeys(_)) => Ok(false),
        Err(_) => Err(UnusableFile::Unparsable),
    };
    let certified = CertifiedKey::new(chain, key);
    if fits(&certified)? {
        return Ok(certified);
    }
    let others = certified.cert.iter().enumerate().skip(1);
    for (place, other) in others {
        if fits(&CertifiedKey::new(vec![other.clone()], certified.key.clone())).unwrap_or(false) {
            return Err(UnusableFile::Order(place + 1));
        }
    }
    Err(UnusableFile::Mismatch)
}

/// The names and the validity of a certificate.
struct CertificateFacts {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

fn certificate_facts(chain: &[CertificateDer<'_>]) -> Result<CertificateFacts, UnusableFile> {
    let first = chain.first().ok_or(UnusableFile::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| UnusableFile::Unparsable)?;
    let alternatives = parsed.subject_alternative_name().map_err(|_| UnusableFile::Unparsable)?;
    let mut names = Vec::new();
    for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let validity = parsed.validity();
    Ok(CertificateFacts {
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// Checks that a file is a successful OCSP response: a SEQUENCE that fills the file (RFC 6960, 4.2.1).
fn check_staple(der: Vec<u8>) -> Result<Vec<u8>, UnusableFile> {
    const STATUS_SUCCESSFUL: [u8; 3] = [0x0a, 0x01, 0x00];
    let content = match der.get(..2) {
        Some([0x30, short @ 0..=0x7f]) => der.get(2..).filter(|c| c.len() == usize::from(*short)),
        Some([0x30, 0x81]) => der.get(3..).filter(|c| der.get(2).is_some_and(|n| usize::from(*n) == c.len())),
        Some([0x30, 0x82]) => der
            .get(4..)
            .filter(|c| der.get(2..4).is_some_and(|n| usize::from(n[0]) << 8 | usize::from(n[1]) == c.len())),
        _ => None,
    };
    match content.is_some_and(|content| content.starts_with(&STATUS_SUCCESSFUL)) {
        true => Ok(der),
        false => Err(UnusableFile::NotOcsp),
    }
}

#[cfg(test)]
mod tests;
