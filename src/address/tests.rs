//! Tests of forwarding fields, true and forged.

use super::*;
use http::HeaderValue;
use proptest::{collection::vec, prelude::*, sample::select};

fn text(write: impl FnOnce(&mut String)) -> String {
    let mut text = String::new();
    write(&mut text);
    text
}

fn written(address: IpAddr) -> String {
    text(|text| push_address(text, address))
}

fn forwarded_for(client: &ClientAddress) -> String {
    text(|text| client.write_forwarded_for(text))
}

fn forwarded(client: &ClientAddress, host: Option<&str>) -> String {
    text(|text| client.write_forwarded(host, text))
}

const FIELDS: [&str; 6] =
    ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "via"];

fn trusted() -> TrustedProxies {
    let networks = ["10.0.0.0/8", "2001:db8:aa::/48", "::ffff:172.16.0.0/108"];
    TrustedProxies::new(&networks.map(|network| network.parse().unwrap()))
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from(peer: &str, fields: &[(&str, &str)]) -> ClientAddress {
    ClientAddress::of(address(peer), RequestScheme::Http, &headers(fields), &trusted())
}

/// The client and the proxies, in the form that an origin gets.
fn way(peer: &str, fields: &[(&str, &str)]) -> String {
    forwarded_for(&from(peer, fields))
}

#[test]
fn a_peer_is_the_client_unless_it_is_trusted() {
    let forged = [
        ("x-forwarded-for", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1;proto=https;host=evil"),
        ("x-real-ip", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
    ];
    let client = from("203.0.113.7", &forged);
    assert_eq!(client, ClientAddress::peer(address("203.0.113.7"), RequestScheme::Http));
    assert_eq!(way("10.0.0.1", &forged), "1.1.1.1, 10.0.0.1");
    assert_eq!(way("::ffff:203.0.113.7", &forged), "203.0.113.7");
    assert_eq!(way("::ffff:10.0.0.1", &forged), "1.1.1.1, 10.0.0.1");
    assert_eq!(way("172.16.5.5", &forged), "1.1.1.1, 172.16.5.5");
    assert_eq!(way("2001:db8:aa::1", &forged), "1.1.1.1, 2001:db8:aa::1");
}

#[test]
fn the_way_is_walked_while_its_hops_are_trusted() {
    for (list, expected) in [
        ("203.0.113.7", "203.0.113.7, 10.0.0.1"),
        ("203.0.113.7, 10.0.0.2", "203.0.113.7, 10.0.0.2, 10.0.0.1"),
        ("1.1.1.1, 203.0.113.7", "203.0.113.7, 10.0.0.1"),
        ("10.0.0.9, 203.0.113.7,10.0.0.2", "203.0.113.7, 10.0.0.2, 10.0.0.1"),
        ("203.0.113.7:5, [2001:db8:aa::2]:80", "203.0.113.7, 2001:db8:aa::2, 10.0.0.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
        ("203.0.113.7, unknown", "10.0.0.1"),
        ("203.0.113.7, unknown, 10.0.0.2", "10.0.0.2, 10.0.0.1"),
        ("", "10.0.0.1"),
        (" , ,203.0.113.7, ", "203.0.113.7, 10.0.0.1"),
        ("203.0.113.7\u{e9}", "10.0.0.1"),
        ("\u{e9}, 203.0.113.7", "203.0.113.7, 10.0.0.1"),
    ] {
        assert_eq!(way("10.0.0.1", &[("x-forwarded-for", list)]), expected, "{list}");
    }
    let lines =
        [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "10.0.0.2")];
    assert_eq!(way("10.0.0.1", &lines), "203.0.113.7, 10.0.0.2, 10.0.0.1");
}

#[test]
fn one_field_decides() {
    let (list, forwarded, real) =
        (("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=2.2.2.2"), ("x-real-ip", "3.3.3.3"));
    assert_eq!(way("10.0.0.1", &[real, forwarded, list]), "1.1.1.1, 10.0.0.1");
    assert_eq!(way("10.0.0.1", &[real, forwarded]), "2.2.2.2, 10.0.0.1");
    assert_eq!(way("10.0.0.1", &[real]), "3.3.3.3, 10.0.0.1");
    assert_eq!(way("10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(way("10.0.0.1", &[("x-real-ip", "3.3.3.3, 4.4.4.4")]), "10.0.0.1");
    // A field that is present decides, even without an address.
    assert_eq!(way("10.0.0.1", &[("x-forwarded-for", "unknown"), forwarded]), "10.0.0.1");
}

#[test]
fn the_scheme_and_the_host_are_the_outermost_trusted_ones() {
    let told = |fields: &[(&str, &str)]| {
        let client = from("10.0.0.1", fields);
        (client.scheme.as_str(), client.host.map(String::from).unwrap_or_default())
    };
    let of = |list, proto| told(&[("x-forwarded-for", list), ("x-forwarded-proto", proto)]).0;
    assert_eq!(of("1.1.1.1", "https"), "https");
    assert_eq!(of("1.1.1.1", "HTTPS"), "https");
    assert_eq!(of("1.1.1.1", "gopher"), "http");
    // The client wrote the first of the two.
    assert_eq!(of("1.1.1.1", "https, http"), "http");
    assert_eq!(of("9.9.9.9, 1.1.1.1", "https, http"), "http");
    // Each proxy wrote one, or the outer one alone.
    assert_eq!(of("1.1.1.1, 10.0.0.2", "https, http"), "https");
    assert_eq!(of("1.1.1.1, 10.0.0.2", "https"), "https");
    assert_eq!(told(&[("x-forwarded-host", "a.example:8443")]).1, "a.example:8443");
    for (host, believed) in [
        ("a.example.", "a.example"),
        ("a.example/evil", ""),
        ("a..example", ""),
        (".example", ""),
        ("a:b", ""),
        ("[x]", ""),
    ] {
        assert_eq!(told(&[("x-forwarded-host", host)]).1, believed, "{host}");
        assert_eq!(told(&[("forwarded", &format!("for=1.1.1.1;host=\"{host}\""))]).1, believed, "{host}");
    }
    let element =
        "for=8.8.8.8;proto=http;host=evil, for=1.1.1.1;proto=https;host=a.example, for=10.0.0.2;proto=http";
    assert_eq!(told(&[("forwarded", element)]), ("https", "a.example".to_owned()));
    let both = [("forwarded", "for=1.1.1.1;proto=http"), ("x-forwarded-proto", "https")];
    assert_eq!(told(&both).0, "http");
    let hidden = [("forwarded", "for=_hidden;proto=https;host=a.example")];
    assert_eq!(told(&hidden), ("https", "a.example".to_owned()));
    let own = ClientAddress::of(address("10.0.0.1"), RequestScheme::Https, &headers(&[]), &trusted());
    assert_eq!(own.scheme, RequestScheme::Https);
}

#[test]
fn an_origin_is_told_the_believed_way() {
    let mut client = from("10.0.0.1", &[("x-forwarded-for", "8.8.8.8, 2001:db8::7, 10.0.0.2")]);
    assert_eq!(forwarded_for(&client), "2001:db8::7, 10.0.0.2, 10.0.0.1");
    let expected = "for=\"[2001:db8::7]\";proto=http;host=\"a:80\", for=10.0.0.2, for=10.0.0.1";
    assert_eq!(forwarded(&client, Some("a:80")), expected);
    client.proxies.clear();
    client.scheme = RequestScheme::Https;
    assert_eq!(forwarded(&client, None), "for=\"[2001:db8::7]\";proto=https");
}

#[test]
fn a_customer_of_a_provider_is_one() {
    let of = |text: &str| network_of(address(text)).to_string();
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(of("2001:db8:1:2::9"), of("2001:db8:1:2:ffff::"));
    assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
    assert_eq!(of("192.0.2.1"), "192.0.2.1");
}

fn any_fields() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let text = prop_oneof![
        vec(any::<u8>(), 0..40),
        r#"(for=|by=|proto=|host=|https?|"|\\|,|;| |\[|\]|:|unknown|_a|10\.0\.0\.1|1\.1\.1\.1|2001:db8:aa::1){0,12}"#
            .prop_map(String::into_bytes),
    ];
    vec((select(&FIELDS[..]), text), 0..8)
}

fn sent(fields: &[(&str, Vec<u8>)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        // A value that is not allowed in a header never gets here.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name.parse::<HeaderName>().unwrap(), value);
        }
    }
    headers
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(bits.into()));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()));
    prop_oneof![v4, v6].prop_map(|address| address.to_canonical())
}

proptest! {
    #[test]
    fn no_field_of_an_untrusted_peer_changes_anything(peer in any_address(), fields in any_fields()) {
        prop_assume!(!trusted().contains(peer));
        let client = ClientAddress::of(peer, RequestScheme::Http, &sent(&fields), &trusted());
        prop_assert_eq!(client, ClientAddress::peer(peer, RequestScheme::Http));
    }

    #[test]
    fn with_nobody_trusted_nothing_is_read(peer in any_address(), fields in any_fields()) {
        let client = ClientAddress::of(peer, RequestScheme::Https, &sent(&fields), &TrustedProxies::default());
        prop_assert_eq!(client, ClientAddress::peer(peer, RequestScheme::Https));
    }

    /// The proxy in front adds the client's address to the end of what the client sent, on its line or on a
    /// new one.
    #[test]
    fn a_client_behind_a_proxy_can_not_pose_as_another(
        client in any_address(),
        forged in any_fields(),
        same_line in any::<bool>(),
        field in select(&["x-forwarded-for", "forwarded"][..]),
    ) {
        prop_assume!(!trusted().contains(client));
        // A proxy that writes `Forwarded` alone must not let the other field through.
        let kept: Vec<_> = forged.into_iter().filter(|(name, _)| field == "x-forwarded-for" || *name == field).collect();
        let mut headers = sent(&kept);
        let node = match (field, client) {
            ("forwarded", IpAddr::V6(v6)) => format!("for=\"[{v6}]:4711\";proto=https"),
            ("forwarded", IpAddr::V4(v4)) => format!("for={v4};proto=https"),
            _ => client.to_string(),
        };
        let name: HeaderName = field.parse().unwrap();
        let last = headers.get_all(&name).iter().next_back().cloned();
        match last.filter(|_| same_line && headers.get_all(&name).iter().count() == 1) {
            Some(sent) => {
                let line = [sent.as_bytes(), b", ", node.as_bytes()].concat();
                headers.insert(name, HeaderValue::from_bytes(&line).unwrap());
            }
            None => drop(headers.append(name, HeaderValue::from_str(&node).unwrap())),
        }
        let peer = address("10.0.0.1");
        let found = ClientAddress::of(peer, RequestScheme::Http, &headers, &trusted());
        prop_assert_eq!(found.address, client);
        prop_assert_eq!(found.proxies, [peer]);
        if field == "forwarded" {
            prop_assert_eq!(found.scheme, RequestScheme::Https);
        }
    }

    #[test]
    fn what_is_believed_is_believed_again(fields in any_fields()) {
        let once = ClientAddress::of(address("10.0.0.1"), RequestScheme::Http, &sent(&fields), &trusted());
        let on = [("x-forwarded-for", forwarded_for(&once).into_bytes())];
        let again = ClientAddress::of(address("10.0.0.200"), RequestScheme::Http, &sent(&on), &trusted());
        prop_assert_eq!(again.address, once.address);
        let on = [("forwarded", forwarded(&once, None).into_bytes())];
        let again = ClientAddress::of(address("10.0.0.200"), RequestScheme::Http, &sent(&on), &trusted());
        prop_assert_eq!((again.address, again.scheme), (once.address, once.scheme));
        prop_assert!(once.proxies.iter().all(|proxy| trusted().contains(*proxy)));
    }
}

#[test]
fn addresses_are_written_as_the_library_writes_them() {
    for octet in 0..=255_u8 {
        let address = IpAddr::from([octet, 255 - octet, octet / 2, 9]);
        assert_eq!(written(address), address.to_string());
    }
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(written(six), "2001:db8::1");
}
