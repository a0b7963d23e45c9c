//! Pingora's phases (`ProxyHttp`).

use crate::gateway::{
    context::{connection::ConnectionInfo, RequestContext},
    headers::{rules, to_origin},
    live::sink::SessionSink,
    pipeline::handle_request,
    proxy::{
        native::{self, proxy_directly},
        response::{on_response_chunk, pass_answer},
        upload::{self, check_body_piece},
        upstream::{find_peer, observe_piece, on_connect_failure, on_exchange_failure},
    },
    request::{listener, websocket},
    services::NextStep,
    session::{
        lifecycle::{end_request, fail_request},
        GatewaySession,
    },
    Gateway,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{header, HeaderMap, Version};
use pingora_core::{modules::http::HttpModules, upstreams::peer::HttpPeer, Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session as Pingora};
use std::{any::Any, sync::atomic::Ordering, time::Duration};

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new(self.site.load_full())
    }

    /// Registers no modules: Pingora's compression is not used (see the decision on encodings).
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        session: &mut Pingora,
        ctx: &mut RequestContext,
        from: Box<dyn Any + Send + Sync>,
    ) {
        ctx.request_id = self.services.ids.of(&session.req_header().headers);
        if let Ok(connection) = from.downcast::<ConnectionInfo>() {
            connection.signals.handled.store(true, Ordering::Relaxed);
            ctx.set_connection(*connection, &session.req_header().headers);
        }
    }

    /// Called when a request has been answered and its connection is kept. The connection's state is its own;
    /// it is told how many of its bytes were this request.
    fn persist_connection_context(
        &self,
        session: &Pingora,
        ctx: &RequestContext,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        if let Some(signals) = ctx.signals.as_ref().filter(|_| session.req_header().version < Version::HTTP_2)
        {
            signals.taken.fetch_add(listener::request_length(session), Ordering::Relaxed);
        }
        None
    }

    async fn early_request_filter(&self, session: &mut Pingora, ctx: &mut RequestContext) -> Result<()> {
        // HTTP/2 passes it with the request: its connections are not persisted.
        if let Some(connection) = session.req_header_mut().extensions_mut().remove::<ConnectionInfo>() {
            ctx.request_id = self.services.ids.of(&session.req_header().headers);
            ctx.set_connection(connection, &session.req_header().headers);
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

    async fn request_filter(&self, session: &mut Pingora, ctx: &mut RequestContext) -> Result<bool> {
        let session = &mut GatewaySession::Pingora(session);
        match handle_request(&self.services, session, ctx).await? {
            NextStep::Answered => Ok(true),
            NextStep::Stream(stream) => {
                ctx.is_stream = true;
                stream.run(&mut SessionSink(session)).await;
                Ok(true)
            }
            NextStep::Proxy if native::takes_native_path(session, ctx) => {
                Box::pin(proxy_directly(&self.services, session, ctx)).await.map(|()| true)
            }
            NextStep::Proxy => Ok(false),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Pingora,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        upload::end_once(body, end);
        check_body_piece(&self.services, body.as_ref(), end, session.was_upgraded(), ctx)
    }

    async fn upstream_peer(&self, session: &mut Pingora, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
        find_peer(&self.services, &mut GatewaySession::Pingora(session), ctx).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Pingora,
        request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        to_origin::set_gateway_fields(request, session.req_header().version, ctx);
        if let Some(upstream) = ctx.upstream.as_ref().filter(|_| !request.headers.contains_key(header::HOST))
        {
            // HTTP/1.0 may omit it, HTTP/1.1 must not.
            request.insert_header(header::HOST, upstream.pool.authority(upstream.server))?;
        }
        websocket::move_token(request, ctx)?;
        rules::apply_proxy_rules(session.req_header(), request, ctx);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Pingora,
        head: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        pass_answer(&self.services, &mut GatewaySession::Pingora(session), head, ctx)
    }

    fn response_body_filter(
        &self,
        _: &mut Pingora,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        observe_piece(body.as_ref(), end, ctx)?;
        on_response_chunk(&self.services, body, end, ctx)
    }

    /// Forwards the trailers of an HTTP/2 origin; HTTP/1.1 origins are handled in `proxy::native`.
    async fn response_trailer_filter(
        &self,
        _: &mut Pingora,
        trailers: &mut HeaderMap,
        _: &mut RequestContext,
    ) -> Result<Option<Bytes>> {
        to_origin::strip_trailers(trailers);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Pingora,
        _: &HttpPeer,
        ctx: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        on_connect_failure(&mut GatewaySession::Pingora(session), ctx, &mut error);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Pingora,
        error: Box<Error>,
        ctx: &mut RequestContext,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        on_exchange_failure(&mut GatewaySession::Pingora(session), ctx, &mut error, client_reused);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Pingora,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        let error_code = fail_request(&mut GatewaySession::Pingora(session), error, ctx).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Runs as the last phase, the only one after the exchange with an origin.
    async fn logging(&self, session: &mut Pingora, error: Option<&Error>, ctx: &mut RequestContext) {
        end_request(&self.services, &mut GatewaySession::Pingora(session), error, ctx).await;
    }

    /// Suppresses Pingora's own error log, whose lines would show the query, and with it a token: the access
    /// record has the error.
    fn suppress_error_log(&self, _: &Pingora, _: &RequestContext, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Pingora,
        _: &RequestContext,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, session: &Pingora, ctx: &RequestContext) -> String {
        let request = session.req_header();
        format!("{} {} {}", request.method, request.uri.path(), ctx.id())
    }
}
