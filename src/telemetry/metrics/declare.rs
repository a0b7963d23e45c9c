//! The declarations of metrics. A family is declared and registered in one step: one that is not declared
//! can't be registered, and a test compares the declarations with `docs/metrics.md`.

use crate::telemetry::labels::MetricLabel;
use prometheus::{
    core::{Collector, Desc},
    proto::{Metric, MetricFamily, MetricType},
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use std::{collections::HashMap, marker::PhantomData, sync::Arc};

/// The source of a label's values.
#[derive(Debug, Clone, Copy)]
pub enum LabelValues {
    /// Names or numbers from the configuration.
    Configured,
    /// The values of an enum.
    Listed(fn() -> Vec<&'static str>),
}

/// A label of a family.
#[derive(Debug, Clone, Copy)]
pub struct LabelSpec {
    /// Its name.
    pub name: &'static str,
    /// Its possible values.
    pub values: LabelValues,
}

/// A label whose values are those of `L`.
pub(crate) fn listed<L: MetricLabel>(name: &'static str) -> LabelSpec {
    LabelSpec { name, values: LabelValues::Listed(|| L::VALUES.iter().map(|value| value.text()).collect()) }
}

/// A label whose values come from the configuration.
pub(crate) fn configured(name: &'static str) -> LabelSpec {
    LabelSpec { name, values: LabelValues::Configured }
}

/// A declared family of metrics.
#[derive(Debug, Clone)]
pub struct DeclaredFamily {
    /// Its name, with the unit at the end.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The unit that it counts or measures in.
    pub unit: &'static str,
    /// Its labels.
    pub labels: Vec<LabelSpec>,
}

/// The name, the unit and the help text of a family.
pub(crate) struct FamilyInfo {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
}

impl FamilyInfo {
    pub(crate) fn new(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self { name, unit, help }
    }
}

/// Registers what is declared, and remembers it.
#[derive(Default)]
pub(crate) struct MetricRegistrar {
    registry: Registry,
    families: Vec<DeclaredFamily>,
}

/// Declaring fails only if two declarations contradict each other, or one has a malformed name.
pub(crate) type DeclareResult<T> = Result<T, prometheus::Error>;

impl MetricRegistrar {
    pub(crate) fn counter(&mut self, about: FamilyInfo) -> DeclareResult<IntCounter> {
        let metric = IntCounter::new(about.name, about.help)?;
        self.add(about, "counter", &[], metric)
    }

    /// A counter of fractions.
    pub(crate) fn float_counter(&mut self, about: FamilyInfo) -> DeclareResult<Counter> {
        let metric = Counter::new(about.name, about.help)?;
        self.add(about, "counter", &[], metric)
    }

    pub(crate) fn counters(
        &mut self,
        about: FamilyInfo,
        labels: &[LabelSpec],
    ) -> DeclareResult<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(about.name, about.help), &names(labels))?;
        self.add(about, "counter", labels, metric)
    }

    pub(crate) fn gauge(&mut self, about: FamilyInfo) -> DeclareResult<IntGauge> {
        let metric = IntGauge::new(about.name, about.help)?;
        self.add(about, "gauge", &[], metric)
    }

    /// A gauge of fractions.
    pub(crate) fn float_gauge(&mut self, about: FamilyInfo) -> DeclareResult<Gauge> {
        let metric = Gauge::new(about.name, about.help)?;
        self.add(about, "gauge", &[], metric)
    }

    pub(crate) fn gauges(&mut self, about: FamilyInfo, labels: &[LabelSpec]) -> DeclareResult<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(about.name, about.help), &names(labels))?;
        self.add(about, "gauge", labels, metric)
    }

    pub(crate) fn histogram(&mut self, about: FamilyInfo, buckets: &[f64]) -> DeclareResult<Histogram> {
        let opts = HistogramOpts::new(about.name, about.help).buckets(buckets.to_vec());
        let metric = Histogram::with_opts(opts)?;
        self.add(about, "histogram", &[], metric)
    }

    pub(crate) fn histograms(
        &mut self,
        about: FamilyInfo,
        labels: &[LabelSpec],
        buckets: &[f64],
    ) -> DeclareResult<HistogramVec> {
        let opts = HistogramOpts::new(about.name, about.help).buckets(buckets.to_vec());
        let metric = HistogramVec::new(opts, &names(labels))?;
        self.add(about, "histogram", labels, metric)
    }

    /// One counter per value of `L`, each there from the start (so that its first rise is seen as one).
    pub(crate) fn counter_per<L: MetricLabel>(
        &mut self,
        about: FamilyInfo,
        label: &'static str,
    ) -> DeclareResult<PerLabel<L, IntCounter>> {
        let family = self.counters(about, &[listed::<L>(label)])?;
        Ok(PerLabel::new(|value: L| family.with_label_values(&[value.text()])))
    }

    /// One histogram per value of `L`.
    pub(crate) fn histogram_per<L: MetricLabel>(
        &mut self,
        about: FamilyInfo,
        label: &'static str,
        buckets: &[f64],
    ) -> DeclareResult<PerLabel<L, Histogram>> {
        let family = self.histograms(about, &[listed::<L>(label)], buckets)?;
        Ok(PerLabel::new(|value: L| family.with_label_values(&[value.text()])))
    }

    /// A family whose series are collected at each scrape: labels in the order of their names.
    pub(crate) fn gathered(
        &mut self,
        about: FamilyInfo,
        kind: &'static str,
        labels: &[LabelSpec],
        series: impl Fn() -> Vec<Metric> + Send + Sync + 'static,
    ) -> DeclareResult<()> {
        let names = names(labels).into_iter().map(str::to_owned).collect();
        let desc = Desc::new(about.name.to_owned(), about.help.to_owned(), names, HashMap::new())?;
        let kind_of = if kind == "histogram" { MetricType::HISTOGRAM } else { MetricType::COUNTER };
        self.add(about, kind, labels, GatheredFamily { desc, kind: kind_of, series: Arc::new(series) })?;
        Ok(())
    }

    /// The registry with everything in it, and what was declared, in order.
    pub(crate) fn finish(self) -> (Registry, Vec<DeclaredFamily>) {
        (self.registry, self.families)
    }

    fn add<M: Collector + Clone + 'static>(
        &mut self,
        about: FamilyInfo,
        kind: &'static str,
        labels: &[LabelSpec],
        metric: M,
    ) -> DeclareResult<M> {
        self.registry.register(Box::new(metric.clone()))?;
        let FamilyInfo { name, unit, help: _ } = about;
        self.families.push(DeclaredFamily { name, kind, unit, labels: labels.to_vec() });
        Ok(metric)
    }
}

/// A family that collects its series at each scrape.
#[derive(Clone)]
struct GatheredFamily {
    desc: Desc,
    kind: MetricType,
    series: Arc<dyn Fn() -> Vec<Metric> + Send + Sync>,
}

impl Collector for GatheredFamily {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric((self.series)());
        vec![family]
    }
}

fn names(labels: &[LabelSpec]) -> Vec<&'static str> {
    labels.iter().map(|label| label.name).collect()
}

/// One `M` per value of the label `L`: found by index, never by hashing.
pub(crate) struct PerLabel<L, M> {
    all: Vec<M>,
    label: PhantomData<fn(L)>,
}

impl<L: MetricLabel, M> PerLabel<L, M> {
    pub(crate) fn new(make: impl FnMut(L) -> M) -> Self {
        Self { all: L::VALUES.iter().copied().map(make).collect(), label: PhantomData }
    }

    pub(crate) fn of(&self, value: L) -> &M {
        &self.all[value.index()]
    }
}
