use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;
const TARGET: &str = "/files/report%20a.pdf?day=1&x";

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn ours() -> [Secret; 1] {
    [secret("the secret of these tests")]
}

fn signed(target: &str) -> String {
    sign_target(&ours()[0], target, None, NOW).unwrap()
}

#[test]
fn the_text_that_is_signed_is_the_target_as_it_is_sent() {
    // python3: base64.urlsafe_b64encode(hmac.new(b"the secret of these tests",
    //   b"/files/report%20a.pdf?day=1&x&expires=1800000000", "sha256").digest()).rstrip(b"=")
    let expected = "/files/report%20a.pdf?day=1&x&expires=1800000000&signature=CLmK6NbrXiUJ6rS7ZesTnRJjyc9rAAazHtcocaH-YjI";
    assert_eq!(signed(TARGET), expected);
    let below = sign_target(&ours()[0], "/media/a/1.ts", Some("/media/a/"), NOW).unwrap();
    // The same over b"signed_path=/media/a/&expires=1800000000".
    let expected = "/media/a/1.ts?signed_path=/media/a/&expires=1800000000&signature=g1X3SCbnHBWQcS-kO2HK--TnjpaMlvNmva-z_Dtmd6s";
    assert_eq!(below, expected);
}

#[test]
fn a_good_link_loses_its_signature() {
    for target in [TARGET, "/x", "/x?a=1", "/x?a", "/x?a=b?c", "/?a=1&&b=2"] {
        assert_eq!(verify_target(&ours(), &signed(target), NOW).as_deref(), Ok(target));
    }
    assert_eq!(verify_target(&ours(), &signed("/x?"), NOW).as_deref(), Ok("/x"));
}

#[test]
fn a_link_ends() {
    assert_eq!(verify_target(&ours(), &signed("/x"), NOW + 1), Err(SignatureRefusal::Expired));
    // That it has ended is told only of one that was good.
    let forged = signed("/x").replace("expires=1800000000", "expires=1700000000");
    assert_eq!(verify_target(&ours(), &forged, NOW), Err(SignatureRefusal::Signature));
    assert_eq!(verify_target(&ours(), &forged, 0), Err(SignatureRefusal::Signature));
}

#[test]
fn while_a_secret_rotates_both_are_good() {
    let [old] = ours();
    let both = [secret("the new one"), old];
    assert!(verify_target(&both, &signed("/x"), NOW).is_ok());
    assert!(verify_target(&both, &sign_target(&both[0], "/x", None, NOW).unwrap(), NOW).is_ok());
    assert_eq!(verify_target(&both[..1], &signed("/x"), NOW), Err(SignatureRefusal::Signature));
    assert_eq!(verify_target(&[], &signed("/x"), NOW), Err(SignatureRefusal::Signature));
}

#[test]
fn the_parameters_stand_at_the_end_in_their_order_and_once() {
    let good = signed("/x?a=1");
    let signature = good.split_once("signature=").unwrap().1.to_owned();
    for bad in [
        "/x?a=1".to_owned(),
        format!("{good}&b=2"),
        format!("{good}&"),
        format!("{good}="),
        good.replace("a=1&expires=1800000000", "expires=1800000000&a=1"),
        format!("/x?signature={signature}&a=1&expires=1800000000"),
        format!("/x?a=1&expires=1800000000&Signature={signature}"),
        format!("/x?a=1&expires=1800000000&signatur%65={signature}"),
        format!("/x?a=1&expires=+1800000000&signature={signature}"),
        format!("/x?a=1&expires=&signature={signature}"),
        format!("/x?a=1&expires=99999999999999999999&signature={signature}"),
        "/x?a=1&expires=1800000000&signature=".to_owned(),
        format!("/x?a=1&expires=1800000000&signature=%{signature}"),
        good.replace("/x", "/x/"),
        good.replace("/x", "/%78"),
        good.replace("a=1", "a=%31"),
        good.replace("a=1", "a=2"),
    ] {
        assert_eq!(verify_target(&ours(), &bad, NOW), Err(SignatureRefusal::Signature), "{bad}");
    }
    // Signed as they are, and refused all the same: whoever reads the rest would see them.
    for twice in [
        "/x?expires=5&expires=1800000000",
        "/x?%65xpires=5&expires=1800000000",
        "/x?signature=a&expires=1800000000",
    ] {
        let mac = URL_SAFE_NO_PAD.encode(target_mac(&ours()[0], twice).unwrap());
        let target = format!("{twice}&signature={mac}");
        assert_eq!(verify_target(&ours(), &target, NOW), Err(SignatureRefusal::Signature), "{target}");
    }
}

#[test]
fn one_signature_for_everything_below_a_path() {
    let link = sign_target(&ours()[0], "/media/a/index.m3u8?q=1", Some("/media/a/"), NOW).unwrap();
    let query = link.split_once("?q=1&").unwrap().1;
    for (path, bare) in [
        (format!("/media/a/index.m3u8?q=1&{query}"), "/media/a/index.m3u8?q=1"),
        (format!("/media/a/b/1.ts?{query}"), "/media/a/b/1.ts"),
        (format!("/media/a/?x=2&y&{query}"), "/media/a/?x=2&y"),
    ] {
        assert_eq!(verify_target(&ours(), &path, NOW).as_deref(), Ok(bare), "{path}");
    }
    assert_eq!(
        verify_target(&ours(), &format!("/media/a/1.ts?{query}"), NOW + 1),
        Err(SignatureRefusal::Expired)
    );
    for bad in [
        format!("/media/b/1.ts?{query}"),
        format!("/media/a?{query}"),
        format!("/media/a/1.ts?{query}").replace("signed_path=/media/a/", "signed_path=/media/"),
        format!("/media/a/1.ts?{query}").replace("signed_path=/media/a/&", ""),
        format!("/media/a/1.ts?signed_path=/&{query}"),
        format!("/media/%61/1.ts?{query}"),
    ] {
        assert_eq!(verify_target(&ours(), &bad, NOW), Err(SignatureRefusal::Signature), "{bad}");
    }
}

#[test]
fn a_signature_for_one_target_is_none_for_a_path_below_it() {
    // A path begins with a slash, `signed_path` doesn't: the two kinds of text never meet.
    let text = "signed_path=/&expires=1800000000";
    let mac = URL_SAFE_NO_PAD.encode(target_mac(&ours()[0], &format!("/x?{text}")).unwrap());
    assert_eq!(
        verify_target(&ours(), &format!("/x?{text}&signature={mac}"), NOW),
        Err(SignatureRefusal::Signature)
    );
}

#[test]
fn what_can_not_be_signed() {
    let refused =
        |target: &str, below: Option<&str>| sign_target(&ours()[0], target, below, NOW).unwrap_err();
    for bad in ["", "x", "/a b", "/é", "/a#b", "/a\n"] {
        assert_eq!(refused(bad, None), SignError::Target, "{bad:?}");
    }
    for bad in ["/x?expires=1", "/x?a&signature", "/x?%73ignature=", "/x?signed_path=/"] {
        assert_eq!(refused(bad, None), SignError::Parameter, "{bad:?}");
    }
    for below in ["", "a/", "/a", "/a/?", "/b/", "/a b/"] {
        assert_eq!(refused("/a/x", Some(below)), SignError::Path, "{below:?}");
    }
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_any_change_is_noticed(
        target in "/[a-z%/.]{0,8}(\\?[a-z=&%+;]{1,12})?",
        at in any::<proptest::sample::Index>(),
        put in prop_oneof!["[ -~]", "[a-z&=?]"],
    ) {
        let Ok(link) = sign_target(&ours()[0], &target, None, NOW) else { return Ok(()) };
        prop_assert_eq!(verify_target(&ours(), &link, NOW), Ok(target));
        let at = at.index(link.len());
        let changed = format!("{}{put}{}", &link[..at], &link[at + 1..]);
        if changed != link {
            prop_assert_eq!(verify_target(&ours(), &changed, NOW), Err(SignatureRefusal::Signature), "{}", changed);
        }
    }

    #[test]
    fn nothing_of_the_signature_goes_on(target in "/[a-z]{0,3}(\\?[a-z=&]{0,12})?", below in any::<bool>()) {
        if let Ok(link) = sign_target(&ours()[0], &target, below.then_some("/"), NOW) {
            let bare = verify_target(&ours(), &link, NOW).expect("signed");
            let query = bare.split_once('?').map_or("", |(_, query)| query);
            prop_assert!(!query.split('&').any(is_own_parameter));
            prop_assert_eq!(bare.trim_end_matches(['?', '&']), target.trim_end_matches(['?', '&']));
        }
    }

    #[test]
    fn any_target_gets_a_verdict(target in "\\PC{0,40}|/[a-z]?\\?(signed_path=/|expires=[0-9]{0,4}|signature=[a-z]{0,3}|&){0,5}") {
        prop_assert_eq!(verify_target(&ours(), &target, 0), Err(SignatureRefusal::Signature));
    }
}
