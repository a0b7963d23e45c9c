//! The subject of a certificate as text (RFC 4514): the form in which an origin gets a client's identity.
//!
//! The text is ASCII and a valid field value for any certificate: characters that are not printable or not
//! ASCII are written as `\` and two hexadecimal digits for each byte of their UTF-8 (RFC 4514, 2.4).

use std::fmt::Write as _;
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Any, Class, Tag},
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// The attribute types that have a name (RFC 4514, 3, and other common ones); any other is written as its
/// number.
const ATTRIBUTE_NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The subject of a certificate (DER): `CN=kiosk 7,OU=Shops,O=Example`. `None` if the certificate can't be
/// parsed.
pub(crate) fn read_subject(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(format_name(parsed.subject()))
}

/// Formats a name; the last element comes first (RFC 4514, 2.1).
fn format_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let elements: Vec<_> = name.iter_rdn().collect();
    for (index, element) in elements.iter().rev().enumerate() {
        for (part, attribute) in element.iter().enumerate() {
            match (index, part) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let number = attribute.attr_type().to_id_string();
    let name = ATTRIBUTE_NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    text.push_str(name.unwrap_or(&number));
    text.push('=');
    // A value of a type without a name, or one that is no text, is written in its encoding (RFC 4514, 2.4).
    match decode_value(attribute.attr_value()).filter(|_| name.is_some()) {
        Some(value) => push_value(text, &value),
        None => push_encoding(text, attribute.attr_value()),
    }
}

fn decode_value(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::NumericString | Tag::PrintableString | Tag::Utf8String | Tag::Ia5String | Tag::VisibleString => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        Tag::BmpString => {
            let units: Vec<u16> = value
                .data
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
                .collect();
            String::from_utf16(&units).ok().filter(|_| value.data.len().is_multiple_of(2))
        }
        _ => None,
    }
}

fn push_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if place == 0 => text.push_str("\\#"),
            b' ' if place == 0 || place == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            // Writing to a String can't fail.
            _ => write!(text, "\\{byte:02X}").unwrap_or_default(),
        }
    }
}

/// Appends `#` and the BER encoding in hexadecimal digits.
fn push_encoding(text: &mut String, value: &Any<'_>) {
    let class = match value.class() {
        Class::Universal => 0x00,
        Class::Application => 0x40,
        Class::ContextSpecific => 0x80,
        Class::Private => 0xc0,
    };
    let constructed = if value.header.is_constructed() { 0x20 } else { 0 };
    // A tag number above 30 takes more than a byte; no attribute has one.
    let number = u8::try_from(value.tag().0).unwrap_or(0) & 0x1f;
    let length = value.data.len();
    let mut head = vec![class | constructed | number];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => head.push(short),
        _ => {
            let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
            head.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
            head.extend(bytes);
        }
    }
    text.push('#');
    for byte in head.iter().chain(value.data) {
        write!(text, "{byte:02x}").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    fn of(parts: &[(DnType, DnValue)]) -> String {
        let mut name = DistinguishedName::new();
        for (kind, value) in parts {
            name.push(kind.clone(), value.clone());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        read_subject(certificate.der()).unwrap()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn a_name_is_written_from_its_end() {
        let parts = [
            (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
            (DnType::OrganizationName, utf8("Example, Inc.")),
            (DnType::CommonName, utf8("kiosk 7")),
        ];
        assert_eq!(of(&parts), "CN=kiosk 7,O=Example\\, Inc.,C=DE");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn what_has_a_meaning_is_escaped() {
        let common = |text| of(&[(DnType::CommonName, utf8(text))]);
        assert_eq!(common("a+b\"c\\d<e>f;g"), "CN=a\\+b\\\"c\\\\d\\<e\\>f\\;g");
        assert_eq!(common(" x "), "CN=\\ x\\ ");
        assert_eq!(common(" "), "CN=\\ ");
        assert_eq!(common("#1#"), "CN=\\#1#");
        assert_eq!(common("Lu\u{10d}i\u{107}"), "CN=Lu\\C4\\8Di\\C4\\87");
        assert_eq!(common("a\r\nX-Role: admin"), "CN=a\\0D\\0AX-Role: admin");
    }

    #[test]
    fn other_kinds_of_text_and_of_types() {
        let bmp = DnValue::BmpString("\u{e4}".try_into().unwrap());
        assert_eq!(of(&[(DnType::CommonName, bmp)]), "CN=\\C3\\A4");
        let teletex = DnValue::TeletexString("x".try_into().unwrap());
        assert_eq!(of(&[(DnType::CommonName, teletex)]), "CN=#140178");
        let own = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99_999]);
        assert_eq!(of(&[(own, utf8("x"))]), "1.3.6.1.4.1.99999=#0c0178");
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        assert_eq!(read_subject(b""), None);
        assert_eq!(read_subject(b"0\x03\x02\x01\x00"), None);
    }

    proptest! {
        #[test]
        fn any_name_is_a_field_value(text in "\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let written = of(&[(DnType::CommonName, utf8(&text))]);
            prop_assert!(http::HeaderValue::from_str(&written).is_ok());
            prop_assert!(written.is_ascii());
            read_subject(&bytes);
        }
    }
}
