//! The answers of sentinels: the master that they name, and the number of those that still answer.
//!
//! Of several configurations the newest counts, as among the sentinels themselves: [`elect`]. While most of
//! them don't answer, they may have promoted another server: [`KnownMaster::confirmed_ms`]. No I/O and no
//! clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Host and port of a server.
pub(super) type SentinelAddress = (String, u16);

/// The most sentinels that are known.
pub(super) const MOST_SENTINELS: usize = 16;

/// The sentinels of one master.
#[derive(Default)]
pub(super) struct KnownMaster {
    /// By URL.
    pub(super) sentinels: BTreeMap<String, KnownSentinel>,
    /// The newest epoch that was ever named.
    newest: u64,
}

/// One sentinel, with its last answers.
#[derive(Default)]
pub(super) struct KnownSentinel {
    /// True if the configuration names it.
    pub(super) is_configured: bool,
    /// Its name among the sentinels; `None`: it has never answered. It may be known under two URLs.
    pub(super) id: Option<String>,
    /// The start of the last question that has ended by now.
    pub(super) tried: Option<Instant>,
    pub(super) named: Option<NamedMaster>,
    /// The time of the last question that it answered with a master; 0: none.
    pub(super) named_ms: u64,
    /// The names of the others that it knows of.
    pub(super) others: BTreeSet<String>,
}

impl KnownSentinel {
    /// Its id, unless it could not tell one and goes by its URL.
    fn own_id(&self, url: &str) -> Option<&String> {
        self.id.as_ref().filter(|id| *id != url)
    }
}

/// A master that a sentinel names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cache::redis) struct NamedMaster {
    pub(super) master: SentinelAddress,
    /// Rises with each failover; 0 if the sentinel doesn't report it.
    pub(super) epoch: u64,
}

/// The extent to which sentinels confirm the master that they named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache::redis) struct MasterConfirmation {
    /// The last time at which so many named a master that the others could not promote another one; 0: never.
    pub(in crate::cache::redis) at_ms: u64,
    /// The number of those that answered the last question.
    pub(in crate::cache::redis) answering: usize,
    /// The number of all.
    pub(in crate::cache::redis) known: usize,
}

/// The master to use, from the answers of sentinels: that of the newest epoch; of several the one that most
/// name, of equals the one that is `linked`. A configuration older than the `newest` ever named counts only
/// if more than half of all `sentinels` name such: one that slept through a failover must not bring the old
/// master back.
fn elect_master(
    named: &[NamedMaster],
    newest: u64,
    sentinels: usize,
    linked: Option<&SentinelAddress>,
) -> Option<NamedMaster> {
    let epoch = named.iter().map(|naming| naming.epoch).max()?;
    if epoch < newest && named.len() * 2 <= sentinels {
        return None;
    }
    let of_epoch = || named.iter().filter(|naming| naming.epoch == epoch);
    let votes = |master: &SentinelAddress| of_epoch().filter(|naming| naming.master == *master).count();
    of_epoch().max_by_key(|naming| (votes(&naming.master), Some(&naming.master) == linked)).cloned()
}

impl KnownMaster {
    /// The sentinels in the configuration, by their URLs.
    pub(super) fn new(urls: &[String]) -> Self {
        let configured = || KnownSentinel { is_configured: true, ..KnownSentinel::default() };
        Self { sentinels: urls.iter().map(|url| (url.clone(), configured())).collect(), newest: 0 }
    }

    /// Records the result of a question to one of them.
    pub(super) fn record(&mut self, url: &str, heard: impl FnOnce(&mut KnownSentinel)) {
        if let Some(sentinel) = self.sentinels.get_mut(url) {
            heard(sentinel);
            let epoch = sentinel.named.as_ref().map_or(0, |naming| naming.epoch);
            self.newest = self.newest.max(epoch);
        }
    }

    /// Adds a sentinel that another one knows. Returns true if it is to be asked from now on.
    pub(super) fn add(&mut self, url: String) -> bool {
        let is_new = self.sentinels.len() < MOST_SENTINELS && !self.sentinels.contains_key(&url);
        if is_new {
            self.sentinels.insert(url, KnownSentinel::default());
        }
        is_new
    }

    /// Returns the masters named in answers to questions of `since` or later, each sentinel once.
    fn named_since(&self, since: Instant) -> Vec<NamedMaster> {
        let fresh = self.sentinels.values().filter(|sentinel| sentinel.tried >= Some(since));
        let by_id: BTreeMap<_, _> =
            fresh.filter_map(|sentinel| Some((sentinel.id.as_ref()?, sentinel.named.clone()?))).collect();
        by_id.into_values().collect()
    }

    /// The number of all sentinels: those that answer and those that they know, or those of the
    /// configuration, if there are more. A removed one is forgotten as soon as the others have forgotten it.
    fn count_electors(&self) -> usize {
        let all = || self.sentinels.values();
        let is_any_heard = all().any(|sentinel| sentinel.named.is_some());
        let is_heard = |one: &KnownSentinel| one.named.is_some() || !is_any_heard;
        let heard: Vec<_> = self.sentinels.iter().filter(|(_, one)| is_heard(one)).collect();
        let named: BTreeSet<_> =
            heard.iter().flat_map(|(url, one)| one.others.iter().chain(one.own_id(url))).collect();
        // The others know such a one by its id: two names for one sentinel can't be united.
        let nameless = heard.iter().filter(|(url, one)| one.id.is_some() && one.own_id(url).is_none());
        let of_nameless = nameless.map(|(_, one)| one.others.len() + 1).max().unwrap_or(0);
        let configured = || all().filter(|sentinel| sentinel.is_configured);
        let ids: BTreeSet<_> = configured().filter_map(|sentinel| sentinel.id.as_ref()).collect();
        let unheard = configured().filter(|sentinel| sentinel.id.is_none()).count();
        named.len().max(of_nameless).max(ids.len() + unheard)
    }

    /// The extent to which they confirm the master. A minority of them can't promote another server.
    pub(super) fn confirmation(&self) -> MasterConfirmation {
        let known = self.count_electors();
        let mut last = BTreeMap::<&str, u64>::new();
        for sentinel in self.sentinels.values() {
            let Some(id) = &sentinel.id else { continue };
            let at_ms = last.entry(id).or_default();
            *at_ms = sentinel.named_ms.max(*at_ms);
        }
        let mut times: Vec<_> = last.into_values().collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let needed = known.div_ceil(2).max(1);
        let naming = self.sentinels.values().filter(|sentinel| sentinel.named.is_some());
        let answering: BTreeSet<_> = naming.filter_map(|sentinel| sentinel.id.as_ref()).collect();
        let at_ms = times.get(needed - 1).copied().unwrap_or_default();
        MasterConfirmation { at_ms, answering: answering.len(), known }
    }

    pub(super) fn elect(&self, since: Instant, linked: Option<&SentinelAddress>) -> Option<NamedMaster> {
        elect_master(&self.named_since(since), self.newest, self.count_electors(), linked)
    }

    /// Returns true if no further answers are worth waiting for: most have answered since then, or all were
    /// asked.
    pub(super) fn is_settled(&self, since: Instant) -> bool {
        let named = self.named_since(since).len();
        named * 2 > self.sentinels.len() || self.sentinels.values().all(|one| one.tried >= Some(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn naming(port: u16, epoch: u64) -> NamedMaster {
        NamedMaster { master: ("127.0.0.1".to_owned(), port), epoch }
    }

    #[test]
    fn the_newest_configuration_is_elected() {
        let linked = naming(1, 0).master;
        for (named, newest, sentinels, port, why) in [
            (&[(1, 4), (1, 4), (1, 4)][..], 4, 3, Some(1), "all agree"),
            (&[(1, 4), (2, 5), (1, 4)], 5, 3, Some(2), "one has been told first"),
            (&[(2, 4), (2, 4), (1, 4)], 4, 3, Some(2), "most of one epoch"),
            (&[(2, 4), (1, 4)], 4, 3, Some(1), "as many: the linked one stays"),
            (&[(1, 4)], 5, 3, None, "one that slept through a failover"),
            (&[(1, 4), (1, 4)], 5, 3, Some(1), "most were set up anew"),
            (&[(2, 0)], 5, 1, Some(2), "the only one was set up anew"),
            (&[(2, 0), (2, 0), (1, 0)], 0, 3, Some(2), "no epochs are told"),
            (&[], 5, 3, None, "none answers"),
        ] {
            let named: Vec<_> = named.iter().map(|(port, epoch)| naming(*port, *epoch)).collect();
            let elected = elect_master(&named, newest, sentinels, Some(&linked));
            assert_eq!(elected.map(|naming| naming.master.1), port, "{why}");
        }
    }

    #[test]
    fn a_sentinel_with_two_urls_has_one_vote_and_old_answers_none() {
        let (before, now) = (Instant::now(), Instant::now() + Duration::from_millis(1));
        let heard = |id: &str, tried, port| KnownSentinel {
            id: Some(id.to_owned()),
            tried: Some(tried),
            named: Some(naming(port, 1)),
            ..KnownSentinel::default()
        };
        let mut known = KnownMaster { newest: 1, ..KnownMaster::default() };
        for (url, sentinel) in [
            ("a", heard("1", now, 7)),
            ("b", heard("1", now, 7)),
            ("c", heard("2", before, 8)),
            ("d", KnownSentinel::default()),
        ] {
            known.sentinels.insert(url.to_owned(), sentinel);
        }
        assert_eq!((known.named_since(now).len(), known.count_electors()), (1, 2));
        assert_eq!(known.elect(now, None).map(|naming| naming.master.1), Some(7));
        assert!(!known.is_settled(now), "one of four");
        for sentinel in known.sentinels.values_mut() {
            sentinel.tried = Some(now);
        }
        assert!(known.is_settled(now), "all were tried");
    }

    /// Builds sentinels from texts: `id/others/asked at`; without an id: never answered. `!`: it no longer
    /// answers, `*`: it is not in the configuration.
    fn known(all: &[&str]) -> KnownMaster {
        let of = |text: &&str| {
            let words: Vec<_> = text.trim_matches(['!', '*']).split('/').collect();
            let is_heard = !words[0].is_empty() && !text.starts_with('!');
            KnownSentinel {
                is_configured: !text.ends_with('*'),
                id: Some(words[0].to_owned()).filter(|id| !id.is_empty()),
                tried: None,
                named: is_heard.then(|| naming(1, 1)),
                named_ms: words.get(2).map_or(0, |at| at.parse().unwrap_or_default()),
                others: words
                    .get(1)
                    .unwrap_or(&"")
                    .split(' ')
                    .filter(|id| !id.is_empty())
                    .map(str::to_owned)
                    .collect(),
            }
        };
        let sentinels = all.iter().enumerate().map(|(index, text)| (index.to_string(), of(text))).collect();
        KnownMaster { sentinels, newest: 1 }
    }

    #[test]
    fn a_master_is_confirmed_while_the_others_could_make_no_other() {
        for (all, at_ms, answering, electorate, why) in [
            (&["a//70"][..], 70, 1, 1, "one alone"),
            (&["!a//70"], 70, 0, 1, "one alone that no longer answers"),
            (&["/"], 0, 0, 1, "nobody was ever heard"),
            (&["a/b c/70", "b/a c/60", "c/a b/50"], 60, 3, 3, "the second of three"),
            (
                &["a/b c/70", "!b/a c/20", "!c/a b/10"],
                20,
                1,
                3,
                "two don't answer: since one of them did last",
            ),
            (&["a/b c/70", "/*", "/*"], 0, 1, 3, "began on the side of the fewer"),
            (&["a//70", "/", "/"], 0, 1, 3, "one that tells of no others: those of the configuration"),
            (&["a/b/70", "!b/a/10"], 70, 1, 2, "one of two: the other one alone elects nobody"),
            (&["a/b c d/70", "b/a c d/60", "!c//10", "!d//10"], 60, 2, 4, "half of four"),
            (&["a/b/70", "a/b/60*", "b/a/50*"], 70, 2, 2, "one under two URLs counts once"),
            (&["a/b/70", "b/a/60", "!c/a b/10*"], 70, 2, 2, "one that the others have forgotten"),
            (&["0/x y/70", "1/z y/60", "!2/z x/10"], 60, 2, 3, "three that can't tell their ids"),
            (&["0/x y/70", "!1/z y/60", "!2/z x/10"], 60, 1, 3, "of these, one that answers"),
        ] {
            let confirmation = known(all).confirmation();
            assert_eq!(confirmation, MasterConfirmation { at_ms, answering, known: electorate }, "{why}");
        }
    }
}
