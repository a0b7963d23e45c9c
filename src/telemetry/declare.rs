//! The declarations of metrics. A family is declared and registered in one step: one that is not declared
//! can't be registered, and a test compares the declarations with `docs/metrics.md`.

use super::labels::Label;
use prometheus::{
    core::{Collector, Desc},
    proto::{Metric, MetricFamily, MetricType},
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use std::{collections::HashMap, marker::PhantomData, sync::Arc};

/// The source of a label's values.
#[derive(Debug, Clone, Copy)]
pub enum Values {
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
    pub values: Values,
}

/// A label whose values are those of `L`.
pub(super) fn listed<L: Label>(name: &'static str) -> LabelSpec {
    LabelSpec { name, values: Values::Listed(|| L::VALUES.iter().map(|value| value.text()).collect()) }
}

/// A label whose values come from the configuration.
pub(super) fn configured(name: &'static str) -> LabelSpec {
    LabelSpec { name, values: Values::Configured }
}

/// A declared family of metrics.
#[derive(Debug, Clone)]
pub struct Family {
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
pub(super) struct About {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
}

impl About {
    pub(super) fn new(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self { name, unit, help }
    }
}

/// Registers what is declared, and remembers it.
#[derive(Default)]
pub(super) struct Declarations {
    registry: Registry,
    families: Vec<Family>,
}

/// Declaring fails only if two declarations contradict each other, or one has a malformed name.
pub(super) type Declared<T> = Result<T, prometheus::Error>;

impl Declarations {
    pub(super) fn counter(&mut self, about: About) -> Declared<IntCounter> {
        let metric = IntCounter::new(about.name, about.help)?;
        self.add(about, "counter", &[], metric)
    }

    /// A counter of fractions.
    pub(super) fn float_counter(&mut self, about: About) -> Declared<Counter> {
        let metric = Counter::new(about.name, about.help)?;
        self.add(about, "counter", &[], metric)
    }

    pub(super) fn counters(&mut self, about: About, labels: &[LabelSpec]) -> Declared<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(about.name, about.help), &names(labels))?;
        self.add(about, "counter", labels, metric)
    }

    pub(super) fn gauge(&mut self, about: About) -> Declared<IntGauge> {
        let metric = IntGauge::new(about.name, about.help)?;
        self.add(about, "gauge", &[], metric)
    }

    /// A gauge of fractions.
    pub(super) fn float_gauge(&mut self, about: About) -> Declared<Gauge> {
        let metric = Gauge::new(about.name, about.help)?;
        self.add(about, "gauge", &[], metric)
    }

    pub(super) fn gauges(&mut self, about: About, labels: &[LabelSpec]) -> Declared<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(about.name, about.help), &names(labels))?;
        self.add(about, "gauge", labels, metric)
    }

    pub(super) fn histogram(&mut self, about: About, buckets: &[f64]) -> Declared<Histogram> {
        let opts = HistogramOpts::new(about.name, about.help).buckets(buckets.to_vec());
        let metric = Histogram::with_opts(opts)?;
        self.add(about, "histogram", &[], metric)
    }

    pub(super) fn histograms(
        &mut self,
        about: About,
        labels: &[LabelSpec],
        buckets: &[f64],
    ) -> Declared<HistogramVec> {
        let opts = HistogramOpts::new(about.name, about.help).buckets(buckets.to_vec());
        let metric = HistogramVec::new(opts, &names(labels))?;
        self.add(about, "histogram", labels, metric)
    }

    /// One counter per value of `L`, each there from the start (so that its first rise is seen as one).
    pub(super) fn counter_per<L: Label>(
        &mut self,
        about: About,
        label: &'static str,
    ) -> Declared<Per<L, IntCounter>> {
        let family = self.counters(about, &[listed::<L>(label)])?;
        Ok(Per::new(|value: L| family.with_label_values(&[value.text()])))
    }

    /// One histogram per value of `L`.
    pub(super) fn histogram_per<L: Label>(
        &mut self,
        about: About,
        label: &'static str,
        buckets: &[f64],
    ) -> Declared<Per<L, Histogram>> {
        let family = self.histograms(about, &[listed::<L>(label)], buckets)?;
        Ok(Per::new(|value: L| family.with_label_values(&[value.text()])))
    }

    /// A family whose series are collected at each scrape: labels in the order of their names.
    pub(super) fn gathered(
        &mut self,
        about: About,
        kind: &'static str,
        labels: &[LabelSpec],
        series: impl Fn() -> Vec<Metric> + Send + Sync + 'static,
    ) -> Declared<()> {
        let names = names(labels).into_iter().map(str::to_owned).collect();
        let desc = Desc::new(about.name.to_owned(), about.help.to_owned(), names, HashMap::new())?;
        let kind_of = if kind == "histogram" { MetricType::HISTOGRAM } else { MetricType::COUNTER };
        self.add(about, kind, labels, Gathered { desc, kind: kind_of, series: Arc::new(series) })?;
        Ok(())
    }

    /// The registry with everything in it, and what was declared, in order.
    pub(super) fn finish(self) -> (Registry, Vec<Family>) {
        (self.registry, self.families)
    }

    fn add<M: Collector + Clone + 'static>(
        &mut self,
        about: About,
        kind: &'static str,
        labels: &[LabelSpec],
        metric: M,
    ) -> Declared<M> {
        self.registry.register(Box::new(metric.clone()))?;
        let About { name, unit, help: _ } = about;
        self.families.push(Family { name, kind, unit, labels: labels.to_vec() });
        Ok(metric)
    }
}

/// A family that collects its series at each scrape.
#[derive(Clone)]
struct Gathered {
    desc: Desc,
    kind: MetricType,
    series: Arc<dyn Fn() -> Vec<Metric> + Send + Sync>,
}

impl Collector for Gathered {
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
pub(super) struct Per<L, M> {
    all: Vec<M>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, M> Per<L, M> {
    pub(super) fn new(make: impl FnMut(L) -> M) -> Self {
        Self { all: L::VALUES.iter().copied().map(make).collect(), label: PhantomData }
    }

    pub(super) fn of(&self, value: L) -> &M {
        &self.all[value.index()]
    }
}
