//! The demo's "database": orders per tenant, and the three queries that the widgets ask.
//!
//! The queries are pure: orders and the time in, an answer out. Days and hours are those of UTC. Each tenant
//! keeps its newest [`MAX_ORDERS`] and nothing is written to disk: whatever is older is gone from the
//! answers.

use crate::name::{Name, Tenant};
use parking_lot::Mutex;
use serde::{ser, Serialize, Serializer};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::SystemTime,
};
use time::{format_description::well_known::Rfc3339, OffsetDateTime};

/// Orders kept per tenant.
pub(super) const MAX_ORDERS: usize = 10_000;
/// Tenants kept.
pub(super) const MAX_TENANTS: usize = 100;
/// Rows of the recent-events table.
pub(super) const RECENT_ROWS: usize = 20;
/// Milliseconds of an hour.
pub(super) const HOUR: i64 = 3_600_000;
/// Milliseconds of a day; UTC knows no other.
pub(super) const DAY: i64 = 24 * HOUR;

/// A moment: milliseconds since 1970 in UTC, written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DemoTime(pub(super) i64);

impl DemoTime {
    /// The wall clock.
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The beginning of the hour.
    pub(super) fn hour(self) -> Self {
        Self(self.0 - self.0.rem_euclid(HOUR))
    }

    /// Whole seconds, as tokens and signatures count them.
    pub(super) fn seconds(self) -> u64 {
        u64::try_from(self.0 / 1000).unwrap_or_default()
    }

    fn day(self) -> i64 {
        self.0.div_euclid(DAY)
    }
}

impl Serialize for DemoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(ser::Error::custom)?;
        serializer.serialize_str(&moment.format(&Rfc3339).map_err(ser::Error::custom)?)
    }
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShopOrder {
    /// Increasing by one per tenant.
    pub(super) id: u64,
    /// `order_created`, or the kind that the buyer gave.
    pub(super) kind: Name,
    /// Whole units of the currency.
    pub(super) amount: u64,
    /// The buyer.
    pub(super) user: String,
    /// The time of the order.
    pub(super) at: DemoTime,
}

/// The answer of `/api/widgets/kpi`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct KpiAnswer {
    orders_today: u64,
    revenue_today: u64,
    active_users: u64,
    as_of: DemoTime,
}

/// The answer of `/api/widgets/chart`: `to` is the beginning of the last, still running hour.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ChartAnswer {
    from: DemoTime,
    to: DemoTime,
    points: Vec<ChartPoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct ChartPoint {
    t: DemoTime,
    orders: u64,
    revenue: u64,
}

/// One row of `/api/widgets/recent`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct EventRow {
    id: u64,
    r#type: String,
    amount: u64,
    user: String,
    ts: DemoTime,
}

/// The three queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WidgetQuery {
    /// [`OrderBook::kpi`]
    Kpi,
    /// [`OrderBook::chart`]
    Chart,
    /// [`OrderBook::recent`]
    Recent,
}

/// The orders of one tenant, oldest first, and the number of runs of each query.
#[derive(Debug, Default)]
pub(super) struct OrderBook {
    orders: VecDeque<ShopOrder>,
    last_id: u64,
    asked: HashMap<WidgetQuery, u64>,
}

impl OrderBook {
    /// Records an order and returns its id; the oldest one is removed if there are too many.
    pub(super) fn add(&mut self, kind: Name, amount: u64, user: String, at: DemoTime) -> u64 {
        self.last_id += 1;
        if self.orders.len() == MAX_ORDERS {
            self.orders.pop_front();
        }
        self.orders.push_back(ShopOrder { id: self.last_id, kind, amount, user, at });
        self.last_id
    }

    /// Counts one run of a query and returns the count, this one included.
    pub(super) fn count(&mut self, widget: WidgetQuery) -> u64 {
        let asked = self.asked.entry(widget).or_default();
        *asked += 1;
        *asked
    }

    /// The orders and revenue of today, and the number of distinct users who ordered within the last hour.
    pub(super) fn kpi(&self, now: DemoTime) -> KpiAnswer {
        let mut kpi = KpiAnswer { orders_today: 0, revenue_today: 0, active_users: 0, as_of: now };
        let mut active = HashSet::new();
        for order in &self.orders {
            if order.at.day() == now.day() {
                kpi.orders_today += 1;
                kpi.revenue_today += order.amount;
            }
            if (0..HOUR).contains(&(now.0 - order.at.0)) {
                active.insert(order.user.as_str());
            }
        }
        kpi.active_users = active.len() as u64;
        kpi
    }

    /// Orders and revenue of each of the last `hours` hours, the running one included.
    pub(super) fn chart(&self, hours: u16, now: DemoTime) -> ChartAnswer {
        let to = now.hour();
        let from = DemoTime(to.0 - (i64::from(hours) - 1) * HOUR);
        let mut points: Vec<ChartPoint> = (0..i64::from(hours))
            .map(|i| ChartPoint { t: DemoTime(from.0 + i * HOUR), orders: 0, revenue: 0 })
            .collect();
        for order in &self.orders {
            let bucket = usize::try_from((order.at.0 - from.0).div_euclid(HOUR));
            if let Some(point) = bucket.ok().and_then(|i| points.get_mut(i)) {
                point.orders += 1;
                point.revenue += order.amount;
            }
        }
        ChartAnswer { from, to, points }
    }

    /// The newest [`RECENT_ROWS`] orders, newest first.
    pub(super) fn recent(&self) -> Vec<EventRow> {
        let row = |order: &ShopOrder| EventRow {
            id: order.id,
            r#type: order.kind.to_string(),
            amount: order.amount,
            user: order.user.clone(),
            ts: order.at,
        };
        self.orders.iter().rev().take(RECENT_ROWS).map(row).collect()
    }
}

/// The error for more than [`MAX_TENANTS`] tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the demo keeps at most {MAX_TENANTS} tenants")]
pub(super) struct TooManyTenants;

/// Every tenant's [`OrderBook`].
#[derive(Debug, Default)]
pub(super) struct ShopLedger {
    books: Mutex<HashMap<Tenant, OrderBook>>,
}

impl ShopLedger {
    /// A ledger that begins with these books.
    pub(super) fn of(books: HashMap<Tenant, OrderBook>) -> Self {
        Self { books: Mutex::new(books) }
    }

    /// Opens a tenant's book, a new one for a new tenant.
    ///
    /// # Errors
    /// [`TooManyTenants`] if there is no room for another tenant.
    pub(super) fn open<T>(
        &self,
        tenant: &Tenant,
        read: impl FnOnce(&mut OrderBook) -> T,
    ) -> Result<T, TooManyTenants> {
        let mut books = self.books.lock();
        if books.len() >= MAX_TENANTS && !books.contains_key(tenant) {
            return Err(TooManyTenants);
        }
        Ok(read(books.entry(tenant.clone()).or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use time::macros::datetime;

    fn at(moment: OffsetDateTime) -> DemoTime {
        DemoTime((moment.unix_timestamp_nanos() / 1_000_000) as i64)
    }

    fn moment(at: DemoTime) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).unwrap()
    }

    fn book(orders: &[(DemoTime, u64, &str)]) -> OrderBook {
        let mut book = OrderBook::default();
        for (at, amount, user) in orders {
            book.add("order_created".parse().unwrap(), *amount, (*user).to_owned(), *at);
        }
        book
    }

    proptest! {
        /// The calendar of the `time` crate and a fresh pass per number, against our own arithmetic.
        #[test]
        fn the_queries_agree_with_a_naive_recomputation(
            now in 1_700_000_000_000i64..1_900_000_000_000,
            orders in prop::collection::vec((-200 * HOUR..HOUR, 1u64..1_000_000, 0usize..5), 0..80),
            hours in 1u16..=168,
        ) {
            let users = ["ann", "ben", "cem", "dia", "eve"];
            let orders: Vec<_> = orders.into_iter().map(|(d, a, u)| (DemoTime(now + d), a, users[u])).collect();
            let (book, now) = (book(&orders), DemoTime(now));

            let today: Vec<_> = orders.iter().filter(|o| moment(o.0).date() == moment(now).date()).collect();
            let hour_ago = moment(now) - time::Duration::HOUR;
            let active = users.iter().filter(|user| {
                orders.iter().any(|o| o.2 == **user && moment(o.0) > hour_ago && moment(o.0) <= moment(now))
            });
            prop_assert_eq!(book.kpi(now), KpiAnswer {
                orders_today: today.len() as u64,
                revenue_today: today.iter().map(|o| o.1).sum(),
                active_users: active.count() as u64,
                as_of: now,
            });

            let mut by_hour: BTreeMap<_, (u64, u64)> = BTreeMap::new();
            for order in &orders {
                let cell = by_hour.entry((moment(order.0).date(), moment(order.0).hour())).or_default();
                *cell = (cell.0 + 1, cell.1 + order.1);
            }
            let chart = book.chart(hours, now);
            prop_assert_eq!(chart.points.len(), usize::from(hours));
            prop_assert_eq!((chart.from, chart.to), (chart.points[0].t, now.hour()));
            for (ago, point) in (0..i64::from(hours)).rev().zip(&chart.points) {
                let then = moment(now) - time::Duration::hours(ago);
                let expected = by_hour.get(&(then.date(), then.hour())).copied().unwrap_or_default();
                prop_assert_eq!((moment(point.t).date(), moment(point.t).hour()), (then.date(), then.hour()));
                prop_assert_eq!((point.orders, point.revenue), expected);
            }

            let newest: Vec<u64> = orders.iter().rev().take(20).map(|o| o.1).collect();
            prop_assert_eq!(book.recent().iter().map(|r| r.amount).collect::<Vec<_>>(), newest);
        }
    }

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let book = book(&[
            (at(datetime!(2025-02-28 23:59:59.999 UTC)), 100, "ann"),
            (at(datetime!(2025-03-01 00:00 UTC)), 20, "ben"),
            (at(datetime!(2025-03-01 23:59:59.999 UTC)), 3, "cem"),
        ]);
        let kpi = |now| {
            let kpi = book.kpi(at(now));
            (kpi.orders_today, kpi.revenue_today, kpi.active_users)
        };
        assert_eq!(kpi(datetime!(2025-02-28 23:59:59.999 UTC)), (1, 100, 1));
        assert_eq!(kpi(datetime!(2025-03-01 00:00 UTC)), (2, 23, 2), "yesterday's user is active still");
        assert_eq!(kpi(datetime!(2025-03-01 23:59:59.999 UTC)), (2, 23, 1));
        assert_eq!(kpi(datetime!(2025-03-02 00:00 UTC)), (0, 0, 1));
        // The same time in another zone is the same day.
        assert_eq!(kpi(datetime!(2025-03-01 01:00 +9)), (1, 100, 0), "16:00 UTC of the day before");
    }

    #[test]
    fn the_newest_orders_stay() {
        let mut book = OrderBook::default();
        for second in 0..(MAX_ORDERS as i64 + 5) {
            book.add("order_created".parse().unwrap(), 1, "ann".into(), DemoTime(second * 1000));
        }
        assert_eq!(book.orders.len(), MAX_ORDERS);
        assert_eq!(book.orders.front().map(|o| o.id), Some(6));
        assert_eq!(book.recent().first().map(|r| r.id), Some(MAX_ORDERS as u64 + 5));
        assert_eq!(book.kpi(DemoTime(DAY - 1)).orders_today, MAX_ORDERS as u64);
    }

    #[test]
    fn tenants_are_bounded_and_apart() {
        let ledger = ShopLedger::default();
        for i in 0..MAX_TENANTS {
            let tenant = format!("t{i}").parse().unwrap();
            let order = |book: &mut OrderBook| {
                book.add("order_created".parse().unwrap(), 1, "ann".into(), DemoTime(0))
            };
            assert_eq!(ledger.open(&tenant, order), Ok(1));
        }
        assert_eq!(ledger.open(Name::public(), |_| ()), Err(TooManyTenants));
        assert_eq!(ledger.open(&"t0".parse().unwrap(), |book| book.orders.len()), Ok(1));
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        let text = serde_json::to_string(&at(datetime!(2025-03-01 07:05:09.25 UTC))).unwrap();
        assert_eq!(text, "\"2025-03-01T07:05:09.25Z\"");
    }
}
