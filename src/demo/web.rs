//! The demo origin's HTTP interface: paths, and the caller's identity.
//!
//! Answers are JSON, errors problem documents (RFC 9457). No validators, no cache fields on the widgets: that
//! is the gateway's task, and the point of the demo.

use super::{
    orders::{DemoTime, OrderBook, ShopLedger, TooManyTenants, WidgetQuery},
    outbox::OrderCreated,
    page,
};
use crate::{
    config::Secret,
    name::{Name, Tenant},
};

use axum::{
    extract::{
        rejection::{JsonRejection, QueryRejection},
        DefaultBodyLimit, FromRequestParts, Query, State,
    },
    response::{IntoResponse, Response},
    routing::{get, post},
    Json, Router,
};
use http::{header, request::Parts, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// The largest body of an order, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// The longest name of a user, in bytes.
const MAX_USER: usize = 128;
/// The largest amount of an order, in whole units.
const MAX_AMOUNT: u64 = 1_000_000_000;
/// The most hours of a chart: a week.
const MAX_HOURS: u16 = 168;
/// The number of times that this tenant's query ran since the start.
const QUERY_COUNT: HeaderName = HeaderName::from_static("x-query-count");

/// The state that the handlers share.
pub(super) struct ShopState {
    pub(super) ledger: ShopLedger,
    pub(super) query_cost: Duration,
    pub(super) events: mpsc::Sender<OrderCreated>,
    pub(super) jwt_secret: Secret,
}

type ShopHandle = State<Arc<ShopState>>;

/// The routes of the demo origin.
pub(super) fn build_router(shop: Arc<ShopState>) -> Router {
    Router::new()
        .route("/", get(dashboard))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/widgets/kpi", get(kpi))
        .route("/api/widgets/chart", get(chart))
        .route("/api/widgets/recent", get(recent))
        .route("/orders", post(order))
        .fallback(|| async { ShopProblem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            ShopProblem::new(StatusCode::METHOD_NOT_ALLOWED, "this path knows other methods only")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shop)
}

/// The caller of a request, from the gateway's fields.
struct DemoCaller {
    tenant: Tenant,
    user: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for DemoCaller {
    type Rejection = ShopProblem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ShopProblem> {
        let text = |name| parts.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let tenant =
            text("x-tenant").map_or_else(|| Ok(Tenant::public().clone()), |tenant| parse_tenant(&tenant))?;
        Ok(Self { tenant, user: text("x-user") })
    }
}

async fn kpi(State(shop): ShopHandle, caller: DemoCaller) -> Result<Response, ShopProblem> {
    run_query(&shop, &caller.tenant, WidgetQuery::Kpi, OrderBook::kpi).await
}

/// The parameters of the chart.
#[derive(Deserialize)]
struct ChartSpan {
    #[serde(default = "a_day")]
    hours: u16,
}

fn a_day() -> u16 {
    24
}

async fn chart(
    State(shop): ShopHandle,
    caller: DemoCaller,
    span: Result<Query<ChartSpan>, QueryRejection>,
) -> Result<Response, ShopProblem> {
    let Query(ChartSpan { hours }) = span.map_err(|e| ShopProblem::new(e.status(), e.body_text()))?;
    if !(1..=MAX_HOURS).contains(&hours) {
        return Err(ShopProblem::bad(format!("hours must be from 1 to {MAX_HOURS}")));
    }
    run_query(&shop, &caller.tenant, WidgetQuery::Chart, |book, now| book.chart(hours, now)).await
}

async fn recent(State(shop): ShopHandle, caller: DemoCaller) -> Result<Response, ShopProblem> {
    run_query(&shop, &caller.tenant, WidgetQuery::Recent, |book, _| book.recent()).await
}

/// Runs one query with its artificial cost. The answer is that of the time when the query began, like a
/// database's snapshot: an order that comes in meanwhile is not in it.
async fn run_query<T: Serialize>(
    shop: &ShopState,
    tenant: &Tenant,
    widget: WidgetQuery,
    read: impl FnOnce(&OrderBook, DemoTime) -> T,
) -> Result<Response, ShopProblem> {
    let (count, answer) =
        shop.ledger.open(tenant, |book| (book.count(widget), read(book, DemoTime::now())))?;
    tokio::time::sleep(shop.query_cost).await;
    Ok(([(QUERY_COUNT, count.to_string())], Json(answer)).into_response())
}

/// The body of `POST /orders`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    amount: u64,
    user: Option<String>,
    r#type: Option<String>,
}

/// The answer to it.
#[derive(Serialize)]
struct OrderCreatedAnswer {
    id: u64,
    tenant: String,
    amount: u64,
    ts: DemoTime,
}

async fn order(
    State(shop): ShopHandle,
    caller: DemoCaller,
    body: Result<Json<NewOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<OrderCreatedAnswer>), ShopProblem> {
    let Json(order) = body.map_err(|e| ShopProblem::new(e.status(), e.body_text()))?;
    if !(1..=MAX_AMOUNT).contains(&order.amount) {
        return Err(ShopProblem::bad(format!("amount must be from 1 to {MAX_AMOUNT}")));
    }
    let user = parse_user(order.user.or(caller.user).unwrap_or_else(|| "anonymous".to_owned()))?;
    let kind: Name = order
        .r#type
        .as_deref()
        .unwrap_or("order_created")
        .parse()
        .map_err(|e| ShopProblem::bad(format!("type {e}")))?;
    // Reserves a place for the event first, so that the gateway is told of every order.
    let place = shop.events.try_reserve().map_err(|_| {
        ShopProblem::new(StatusCode::SERVICE_UNAVAILABLE, "too many events wait for the gateway")
    })?;
    let ts = DemoTime::now();
    let id = shop.ledger.open(&caller.tenant, |book| book.add(kind, order.amount, user, ts))?;
    place.send(OrderCreated { tenant: caller.tenant.clone(), order_id: id, amount: order.amount });
    let created = OrderCreatedAnswer { id, tenant: caller.tenant.to_string(), amount: order.amount, ts };
    Ok((StatusCode::CREATED, Json(created)))
}

/// The parameters of the page.
#[derive(Deserialize)]
struct PageVisitor {
    tenant: Option<String>,
    user: Option<String>,
}

async fn dashboard(
    State(shop): ShopHandle,
    visitor: Result<Query<PageVisitor>, QueryRejection>,
) -> Result<Response, ShopProblem> {
    let Query(visitor) = visitor.map_err(|e| ShopProblem::new(e.status(), e.body_text()))?;
    let tenant =
        visitor.tenant.map_or_else(|| Ok(Tenant::public().clone()), |tenant| parse_tenant(&tenant))?;
    let user = parse_user(visitor.user.unwrap_or_else(|| "alice".to_owned()))?;
    let page = page::render_page(&tenant, &user, &shop.jwt_secret, DemoTime::now()).map_err(|error| {
        tracing::error!(%error, "no dashboard page");
        ShopProblem::new(StatusCode::INTERNAL_SERVER_ERROR, "the page can't be made")
    })?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        // The page holds a token.
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::CONTENT_SECURITY_POLICY, page.policy),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, page.html).into_response())
}

fn parse_tenant(text: &str) -> Result<Tenant, ShopProblem> {
    text.parse().map_err(|e| ShopProblem::bad(format!("tenant {e}")))
}

fn parse_user(user: String) -> Result<String, ShopProblem> {
    if user.is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control) {
        return Err(ShopProblem::bad(format!(
            "user must have 1 to {MAX_USER} bytes, none of them a control character"
        )));
    }
    Ok(user)
}

/// An error answer.
#[derive(Debug, Serialize)]
struct ShopProblem {
    r#type: &'static str,
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    detail: String,
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl ShopProblem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status, detail: detail.into() }
    }

    fn bad(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<TooManyTenants> for ShopProblem {
    fn from(error: TooManyTenants) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for ShopProblem {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        let body = serde_json::to_vec(&self).unwrap_or_default();
        *response.body_mut() = body.into();
        response
    }
}
