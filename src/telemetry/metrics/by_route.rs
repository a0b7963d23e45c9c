//! The metrics of each request: counted per thread, summed at a scrape.
//!
//! A request adds to four numbers that no other thread writes to: no name is looked up, nothing is hashed, no
//! cache line moves between cores. A scrape sums the numbers of all threads. A series appears with its first
//! request, so combinations of route, result and status class that never occur cost nothing.

use super::{
    declare::{configured, listed, DeclareResult, FamilyInfo, MetricRegistrar},
    thread_slot,
};
use crate::telemetry::labels::{CacheResult, MetricLabel, StatusClass};
use parking_lot::Mutex;
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc, OnceLock,
    },
    time::Duration,
};

/// Seconds, from a hit out of memory (50 µs) to a fill that nearly failed (10 s).
const REQUEST_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// The same in nanoseconds.
const REQUEST_BOUNDS: [u64; REQUEST_BUCKETS.len()] = {
    let (mut bounds, mut place) = ([0; REQUEST_BUCKETS.len()], 0);
    while place < bounds.len() {
        bounds[place] = (REQUEST_BUCKETS[place] * 1e9 + 0.5) as u64;
        place += 1;
    }
    bounds
};

/// All routes since the start.
#[derive(Debug, Default, Clone)]
pub(crate) struct RouteMetricsTable(Arc<Mutex<HashMap<String, Arc<RouteMetrics>>>>);

impl RouteMetricsTable {
    /// Declares the metrics of routes.
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let (routes, about) = (Self::default(), FamilyInfo::new);
        let route = || configured("route");
        let (result, status) = (listed::<CacheResult>, listed::<StatusClass>);
        d.gathered(
            about("tidegate_requests_total", "requests", "Requests answered."),
            "counter",
            &[route(), result("result"), status("status")],
            routes.gather(RouteMetrics::totals),
        )?;
        d.gathered(
            about(
                "tidegate_request_duration_seconds",
                "seconds",
                "From the request's head to the answer's end.",
            ),
            "histogram",
            &[route(), result("result")],
            routes.gather(RouteMetrics::durations),
        )?;
        d.gathered(
            about("tidegate_sent_bytes_total", "bytes", "Body bytes sent to clients."),
            "counter",
            &[route()],
            routes.gather(RouteMetrics::sent),
        )?;
        Ok(routes)
    }

    /// The numbers of the route `name`; the same ones for the same name.
    pub(crate) fn of(&self, name: &str) -> Arc<RouteMetrics> {
        let mut routes = self.0.lock();
        if let Some(route) = routes.get(name) {
            return route.clone();
        }
        let route = Arc::new(RouteMetrics::new(name));
        routes.insert(name.to_owned(), route.clone());
        route
    }

    fn gather(
        &self,
        of: impl Fn(&RouteMetrics) -> Vec<Metric> + Send + Sync + 'static,
    ) -> impl Fn() -> Vec<Metric> + Send + Sync + 'static {
        let routes = self.clone();
        move || routes.0.lock().values().flat_map(|route| of(route)).collect()
    }
}

/// The metrics of one route.
pub struct RouteMetrics {
    name: String,
    /// The counts, indexed by the slot of the thread that counted.
    places: Box<[OnceLock<Box<ThreadCounts>>]>,
}

/// The counts of one thread.
#[derive(Default)]
#[repr(align(128))]
struct ThreadCounts {
    sent: AtomicU64,
    results: [OnceLock<Box<ResultCounts>>; CacheResult::ALL.len()],
}

#[derive(Default)]
#[repr(align(128))]
struct ResultCounts {
    by_status: [AtomicU64; StatusClass::ALL.len()],
    /// By the smallest bound that the duration does not exceed; the last is unbounded.
    by_duration: [AtomicU64; REQUEST_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl RouteMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            places: (0..thread_slot::wanted_slots()).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts a request that was answered with `status` (0: none was sent) after `duration`, with `bytes` of
    /// body sent.
    pub fn record(&self, result: CacheResult, status: u16, duration: Duration, bytes: u64) {
        let place = thread_slot::current_slot(self.places.len());
        let counts = self.places[place.number].get_or_init(Box::default);
        let of_result = counts.results[result.index()].get_or_init(Box::default);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = REQUEST_BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(REQUEST_BOUNDS.len());
        let add = |to: &AtomicU64, n| add(to, n, place.shared);
        add(&of_result.by_status[StatusClass::of(status).index()], 1);
        add(&of_result.by_duration[bucket], 1);
        add(&of_result.nanoseconds, nanos);
        add(&counts.sent, bytes);
    }

    /// Counts a request whose answer went on for as long as its client liked: its duration says nothing.
    pub fn record_stream(&self, result: CacheResult, status: u16, bytes: u64) {
        let place = thread_slot::current_slot(self.places.len());
        let counts = self.places[place.number].get_or_init(Box::default);
        let of_result = counts.results[result.index()].get_or_init(Box::default);
        add(&of_result.by_status[StatusClass::of(status).index()], 1, place.shared);
        add(&counts.sent, bytes, place.shared);
    }

    /// The counts of all threads.
    fn counts(&self) -> impl Iterator<Item = &ThreadCounts> {
        self.places.iter().filter_map(OnceLock::get).map(|counts| &**counts)
    }

    /// The counts of all threads for a result; `None` if there were none.
    fn of_result(&self, result: CacheResult) -> Option<Vec<&ResultCounts>> {
        let all: Vec<_> =
            self.counts().filter_map(|counts| counts.results[result.index()].get()).map(|of| &**of).collect();
        (!all.is_empty()).then_some(all)
    }

    fn totals(&self) -> Vec<Metric> {
        let of_result = |result: &CacheResult| Some((*result, self.of_result(*result)?));
        let mut metrics = Vec::new();
        for (result, all) in CacheResult::ALL.iter().filter_map(of_result) {
            for class in StatusClass::ALL {
                let total = sum(all.iter().map(|of| &of.by_status[class.index()]));
                if total > 0 {
                    let labels =
                        [("result", result.as_str()), ("route", &self.name), ("status", class.as_str())];
                    metrics.push(counter(&labels, total));
                }
            }
        }
        metrics
    }

    fn durations(&self) -> Vec<Metric> {
        let of_result = |result: &CacheResult| Some((*result, self.of_result(*result)?));
        let of = CacheResult::ALL.iter().filter_map(of_result);
        of.map(|(result, all)| self.histogram(result, &all)).collect()
    }

    fn histogram(&self, result: CacheResult, all: &[&ResultCounts]) -> Metric {
        let bucket = |place: usize| sum(all.iter().map(|of| &of.by_duration[place]));
        let mut counted = 0;
        let mut buckets = Vec::with_capacity(REQUEST_BUCKETS.len());
        for (place, bound) in REQUEST_BUCKETS.iter().enumerate() {
            counted += bucket(place);
            let mut shown = Bucket::default();
            shown.set_upper_bound(*bound);
            shown.set_cumulative_count(counted);
            buckets.push(shown);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counted + bucket(REQUEST_BUCKETS.len()));
        histogram.set_sample_sum(sum(all.iter().map(|of| &of.nanoseconds)) as f64 / 1e9);
        let mut metric = Metric::from_label(labels(&[("result", result.as_str()), ("route", &self.name)]));
        metric.set_histogram(histogram);
        metric
    }

    fn sent(&self) -> Vec<Metric> {
        vec![counter(&[("route", &self.name)], sum(self.counts().map(|counts| &counts.sent)))]
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Adds to a number. A number that only this thread writes to needs no locked instruction.
fn add(to: &AtomicU64, n: u64, shared: bool) {
    if shared {
        to.fetch_add(n, Ordering::Relaxed);
    } else {
        to.store(to.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
}

fn sum<'a>(numbers: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    numbers.fold(0, |sum, number| sum.wrapping_add(number.load(Ordering::Relaxed)))
}

fn counter(named: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels(named));
    metric.set_counter(counter);
    metric
}

/// In the order given, which is that of their names.
fn labels(named: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    named.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_threads_count_adds_up_with_and_without_a_place_of_their_own() {
        // More threads than there are places.
        let threads = thread_slot::wanted_slots() + 20;
        let route = Arc::new(RouteMetrics::new("kpi"));
        let count = |route: Arc<RouteMetrics>| {
            move || {
                (0..1_000).for_each(|n| {
                    route.record(CacheResult::Hit, 200, Duration::from_nanos(n), 3);
                });
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| thread::spawn(count(route.clone()))).collect();
        let each = threads.len() as f64 * 1_000.0;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(route.totals()[0].get_counter().get_value(), each);
        assert_eq!(route.sent()[0].get_counter().get_value(), 3.0 * each);
        let durations = route.durations();
        let histogram = durations[0].get_histogram();
        assert_eq!(histogram.get_sample_count() as f64, each);
        let expected = each * 499.5 / 1e9;
        assert!((histogram.get_sample_sum() - expected).abs() < 1e-9, "{}", histogram.get_sample_sum());
    }

    #[test]
    fn a_duration_is_at_most_its_bound() {
        for (place, bound) in REQUEST_BUCKETS.iter().enumerate() {
            let route = RouteMetrics::new("kpi");
            let exactly = Duration::from_secs_f64(*bound);
            route.record(CacheResult::Hit, 200, exactly, 0);
            route.record(CacheResult::Hit, 200, exactly + Duration::from_nanos(1), 0);
            let all = route.of_result(CacheResult::Hit).unwrap();
            let counted = |place: usize| all[0].by_duration[place].load(Ordering::Relaxed);
            assert_eq!((counted(place), counted(place + 1)), (1, 1), "{bound}");
        }
    }
}
