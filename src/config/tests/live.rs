//! `route.live` and `[[live]]`.

use super::*;

const CACHE: &str = "cache = { namespace = \"n\", ttl = \"1s\" }";

#[test]
fn routes_that_can_not_be_watched() {
    let table: &[(&str, &[&str])] = &[
        ("live = true", &[]),
        ("live = false", &[]),
        ("live = { event = \"a.b:c-d_e\", ping = \"1s\", window = \"0s\", on_bump = \"lazy\", on_ttl = \"watched\", max_wait = \"5m\", max_watchers = 0 }", &[]),
        ("live = \"on\"", &["12:8: route[0].live: must be true, or a table such as { event = \"metric_update\" }"]),
        ("live = { evnt = \"a\" }", &["12:10: route[0].live.evnt: unknown key, did you mean \"event\"?"]),
        ("live = { event = \"\" }", &["12:18: route[0].live.event: must not be empty"]),
        ("live = { event = \"a b\" }", &["12:18: route[0].live.event: must be a name of at most 64 letters, digits, \"-\", \"_\", \".\" and \":\""]),
        ("live = { event = \"ping\" }", &["12:18: route[0].live.event: is the name of an event of the gateway's own"]),
        ("live = { ping = \"999ms\" }", &["12:17: route[0].live.ping: must be from 1s to 5m"]),
        ("live = { ping = \"6m\" }", &["12:17: route[0].live.ping: must be from 1s to 5m"]),
        ("live = { window = \"11s\" }", &["12:19: route[0].live.window: must be at most 10s"]),
        ("live = { max_wait = \"0s\" }", &["12:21: route[0].live.max_wait: must be more than 0"]),
        ("live = { on_bump = \"always\", on_ttl = \"lzy\" }", &[
            "12:20: route[0].live.on_bump: unknown value \"always\", known: watched, eager, lazy",
            "12:39: route[0].live.on_ttl: unknown value \"lzy\", did you mean \"lazy\"?",
        ]),
        ("live = { on_bump = \"eager\", on_ttl = \"eager\" }", &["12:38: route[0].live.on_ttl: must be \"watched\" or \"lazy\""]),
        ("live = { max_watchers = -1 }", &["12:25: route[0].live.max_watchers: must be from 0 to 4294967295"]),
        ("live = true\nmethods = [\"POST\"]", &["12:8: route[0].live: needs GET among the methods"]),
    ];
    for (text, expected) in table {
        assert_eq!(route(&format!("{CACHE}\n{text}")), *expected, "{text}");
    }
    let needs = "needs a cache: what is not stored can't be watched";
    assert_eq!(route("live = true"), [format!("11:8: route[0].live: {needs}")]);
    assert_eq!(route("cache = \"off\"\nlive = true"), [format!("12:8: route[0].live: {needs}")]);
    assert_eq!(route("cache = \"origin\"\nlive = true"), Vec::<String>::new());
    let files = after_base("[[route]]\npath = \"/x/*\"\nfiles = { root = \".\" }\nlive = true");
    assert_eq!(files, [format!("11:8: route[0].live: {needs}")]);
}

#[test]
fn streams_of_several_entries_that_can_not_be() {
    let live = |rest: &str| {
        let routes = format!(
            "[[route]]\npath = \"/x\"\norigin = \"app\"\n{CACHE}\nlive = true\n\
             [[route]]\npath = \"/y/*\"\norigin = \"app\"\n{CACHE}\nlive = true\n\
             [[route]]\npath = \"/z\"\norigin = \"app\"\n{CACHE}\n\
             [[event]]\npath = \"/e\"\nsecret = {{ env = \"EVENT_SECRET\" }}\nbump = [\"n\"]\n[[live]]\n"
        );
        after_base(&format!("{routes}{rest}"))
    };
    let many: Vec<_> = (0..65).map(|n| format!("e{n} = \"/x\"")).collect();
    let many = format!("path = \"/l\"\nwatch = {{ {} }}", many.join(", "));
    let table: &[(&str, &[&str])] = &[
        ("path = \"/l\"\nwatch = { a = \"/x\", b = \"/y/1?n=2\", \"c.d\" = \"/y/\" }", &[]),
        ("", &["26:1: live[0].path: missing", "26:1: live[0].watch: missing"]),
        ("path = \"/l*\"\nwatch = { a = \"/x\" }", &["27:8: live[0].path: \"*\" may only stand at the end, as \"/*\""]),
        ("path = \"/e\"\nwatch = { a = \"/x\" }", &["27:8: live[0].path: is taken by another [[live]] or [[event]]"]),
        ("path = \"/l\"\nwatch = { a = \"/x\" }\n[[live]]\npath = \"/l\"\nwatch = { a = \"/x\" }", &["30:8: live[1].path: is taken by another [[live]] or [[event]]"]),
        ("path = \"/l\"\nwatch = {}", &["28:9: live[0].watch: must name 1 to 64 entries"]),
        (&many, &["28:9: live[0].watch: must name 1 to 64 entries"]),
        ("path = \"/l\"\nwatch = [\"/x\"]", &["28:9: live[0].watch: must be a table such as { kpi = \"/api/widgets/kpi\" }, not a list"]),
        ("path = \"/l\"\nwatch = { a = 5 }", &["28:11: live[0].watch.a: must be text, not an integer"]),
        ("path = \"/l\"\nwatch = { a = \"/z\" }", &["28:11: live[0].watch.a: no route with live takes this path"]),
        ("path = \"/l\"\nwatch = { a = \"/nowhere\" }", &["28:11: live[0].watch.a: no route with live takes this path"]),
        ("path = \"/l\"\nwatch = { a = \"/x?b c\", d = \"/x?e#f\" }", &[
            "28:11: live[0].watch.a: must be written as in a request: no spaces, no \"#\"",
            "28:25: live[0].watch.d: must be written as in a request: no spaces, no \"#\"",
        ]),
        ("path = \"/l\"\nwatch = { stale = \"/x\", \"a b\" = \"/x\" }", &[
            "28:11: live[0].watch.stale: is the name of an event of the gateway's own",
            "28:25: live[0].watch.\"a b\": must be a name of at most 64 letters, digits, \"-\", \"_\", \".\" and \":\"",
        ]),
        ("pth = \"/l\"\nwatch = { a = \"/x\" }", &["26:1: live[0].path: missing", "27:1: live[0].pth: unknown key, did you mean \"path\"?"]),
    ];
    for (text, expected) in table {
        assert_eq!(live(text), *expected, "{text}");
    }
    let refills = faults(
        &BASE
            .replace("[jwt]", "refills = 0\n[jwt]")
            .replace("[jwt]\nalg", "[jwt]\nsecret = { env = \"JWT\" }\nalg"),
    );
    assert_eq!(refills, ["5:11: origin[0].refills: must be more than 0"]);
}
