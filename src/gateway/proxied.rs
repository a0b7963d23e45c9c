//! Pingora's phases (`ProxyHttp`).

use super::{
    direct, dress, entry, forward, session::Session, upload, websocket, Context, Gateway, Next, OnConnection,
    Result,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{header, HeaderMap, Version};
use pingora_core::{modules::http::HttpModules, upstreams::peer::HttpPeer, Error};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session as Pingora};
use std::{any::Any, sync::atomic::Ordering, time::Duration};

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.site.load_full())
    }

    /// Registers no modules: Pingora's compression is not used (see the decision on encodings).
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        session: &mut Pingora,
        ctx: &mut Context,
        from: Box<dyn Any + Send + Sync>,
    ) {
        ctx.request_id = self.ids.of(&session.req_header().headers);
        if let Ok(connection) = from.downcast::<OnConnection>() {
            connection.signals.handled.store(true, Ordering::Relaxed);
            ctx.came_by(*connection, &session.req_header().headers);
        }
    }

    /// Called when a request has been answered and its connection is kept. The connection's state is its own;
    /// it is told how many of its bytes were this request.
    fn persist_connection_context(
        &self,
        session: &Pingora,
        ctx: &Context,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        if let Some(signals) = ctx.signals.as_ref().filter(|_| session.req_header().version < Version::HTTP_2)
        {
            signals.taken.fetch_add(entry::length(session), Ordering::Relaxed);
        }
        None
    }

    async fn early_request_filter(&self, session: &mut Pingora, ctx: &mut Context) -> Result<()> {
        // HTTP/2 passes it with the request: its connections are not persisted.
        if let Some(connection) = session.req_header_mut().extensions_mut().remove::<OnConnection>() {
            ctx.request_id = self.ids.of(&session.req_header().headers);
            ctx.came_by(connection, &session.req_header().headers);
        }
        // Pingora resets the timeout with each request.
        if session.downstream_session.get_keepalive().is_some() {
            let idle = ctx.site.plan.config.server.keepalive.as_secs().max(1);
            session.downstream_session.set_keepalive(Some(idle));
        }
        // RFC 9110, 15.2: an HTTP/1.0 client would read an interim answer as the final one.
        if session.req_header().version < Version::HTTP_11 {
            session.downstream_session.set_ignore_info_resp(true);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Pingora, ctx: &mut Context) -> Result<bool> {
        let session = &mut Session::Pingora(session);
        match self.handle(session, ctx).await? {
            Next::Answered => Ok(true),
            Next::Proxy if direct::fits(session, ctx) => {
                Box::pin(self.proxy_directly(session, ctx)).await.map(|()| true)
            }
            Next::Proxy => Ok(false),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Pingora,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        upload::end_once(body, end);
        self.body_comes(body.as_ref(), end, session.was_upgraded(), ctx)
    }

    async fn upstream_peer(&self, session: &mut Pingora, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.peer(&mut Session::Pingora(session), ctx).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Pingora,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        forward::dress(request, session.req_header().version, ctx);
        if let Some(upstream) = ctx.upstream.as_ref().filter(|_| !request.headers.contains_key(header::HOST))
        {
            // HTTP/1.0 may omit it, HTTP/1.1 must not.
            request.insert_header(header::HOST, upstream.pool.authority(upstream.server))?;
        }
        websocket::move_token(request, ctx)?;
        dress::proxied(session.req_header(), request, ctx);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Pingora,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.answer_passes(&mut Session::Pingora(session), head, ctx)
    }

    fn response_body_filter(
        &self,
        _: &mut Pingora,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        self.hear(body.as_ref(), end, ctx)?;
        self.body_passes(body, end, ctx)
    }

    /// Forwards the trailers of an HTTP/2 origin; HTTP/1.1 origins are handled in `direct`.
    async fn response_trailer_filter(
        &self,
        _: &mut Pingora,
        trailers: &mut HeaderMap,
        _: &mut Context,
    ) -> Result<Option<Bytes>> {
        forward::undress_trailers(trailers);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Pingora,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.not_connected(ctx, &mut error);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Pingora,
        error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        self.broke(&mut Session::Pingora(session), ctx, &mut error, client_reused);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Pingora, error: &Error, ctx: &mut Context) -> FailToProxy {
        let error_code = self.failed(&mut Session::Pingora(session), error, ctx).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Runs as the last phase, the only one after the exchange with an origin.
    async fn logging(&self, session: &mut Pingora, error: Option<&Error>, ctx: &mut Context) {
        self.end(&mut Session::Pingora(session), error, ctx).await;
    }

    /// Suppresses Pingora's own error log, whose lines would show the query, and with it a token: the access
    /// record has the error.
    fn suppress_error_log(&self, _: &Pingora, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Pingora, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    fn request_summary(&self, session: &Pingora, ctx: &Context) -> String {
        let request = session.req_header();
        format!("{} {} {}", request.method, request.uri.path(), ctx.id())
    }
}
