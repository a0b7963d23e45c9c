//! Routes that serve files, and the sending of files in general.

use super::{
    codec::TURN, dress, handover::HANDED, refusal, send::Pieces, session::Session, Context, Gateway, Next,
    Result, Signals,
};
use crate::{
    clock,
    config::{Files, PathPattern, Route},
    files::{
        accel::Orders,
        answer::{self, Facts, Piece},
        chosen::Source,
        directory::{Answer, Directory, SMALL},
        path,
        root::{OpenError, Opened},
        send::{self, Reader},
    },
    representation::{encoding, field_lines::joined, problem::Problem, Body},
    telemetry::labels::{CacheResult, FileOutcome, RejectReason},
};
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode, Uri};
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use std::{collections::VecDeque, io, ops::Range, sync::Arc, time::Instant};

/// `Cache-Status` of a file that a route serves.
const OF_ROUTE: HeaderValue = HeaderValue::from_static("tidegate; detail=file");

/// The runtime state of a route of files.
pub(super) struct FilesAt {
    directory: Arc<Directory>,
    /// The number of bytes of a request's path that belong to the route's prefix.
    base: usize,
    cache_control: HeaderValue,
}

impl FilesAt {
    pub(super) fn new(route: &Route, files: &Files) -> Self {
        let base = match &route.path {
            PathPattern::Prefix(before) => before.len(),
            PathPattern::Exact(path) => path.rfind('/').map_or(0, |slash| slash + 1),
        };
        let private = route.auth == crate::config::Auth::Required;
        let directory = Arc::new(Directory::new(files.clone(), private));
        Self { directory, base, cache_control: files.cache_control.clone() }
    }
}

/// A file to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) source: Source,
    pub(super) facts: &'a Facts,
    pub(super) fields: &'a [(HeaderName, HeaderValue)],
    pub(super) orders: Orders,
    pub(super) status: HeaderValue,
}

impl Gateway {
    /// Answers a request on a route of files.
    pub(super) async fn answer_file(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        at: &FilesAt,
    ) -> Result<Next> {
        let request = session.req_header();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let problem = refusal::method_not_allowed(&[Method::GET, Method::HEAD]);
            return self.refuse_with(session, ctx, RejectReason::MethodNotAllowed, problem).await;
        }
        ctx.result = CacheResult::File;
        let below = ctx.path_of(request).get(at.base..).unwrap_or_default();
        let Ok(path) = path::below(below.as_bytes(), at.directory.hidden()) else {
            return self.no_file(session, ctx, FileOutcome::BadPath).await;
        };
        let accepted = joined(&request.headers, &header::ACCEPT_ENCODING);
        let ranked = encoding::ranked(accepted.as_deref(), &ctx.site.config().encoding.prefer);
        match at.directory.find(path, ranked).await {
            Ok(Answer::File(chosen)) => {
                let file = Outgoing {
                    source: chosen.source.clone(),
                    facts: &chosen.facts,
                    fields: &chosen.fields,
                    orders: Orders::default(),
                    status: OF_ROUTE,
                };
                self.send_file(session, ctx, file).await
            }
            Ok(Answer::Slash) => self.send_slash(session, ctx, at).await,
            Err(error) => self.no_file(session, ctx, meaning(&error)).await,
        }
    }

    /// Redirects to the same path with a slash, with a relative reference that can't lead to another host.
    async fn send_slash(&self, session: &mut Session<'_>, ctx: &mut Context, at: &FilesAt) -> Result<Next> {
        let Some(location) = with_slash(&session.req_header().uri) else {
            return self.no_file(session, ctx, FileOutcome::BadPath).await;
        };
        self.parts.metrics.file(FileOutcome::Slash);
        let mut head = Box::new(ResponseHeader::build(StatusCode::PERMANENT_REDIRECT, Some(8))?);
        head.insert_header(header::LOCATION, location)?;
        head.insert_header(header::CACHE_CONTROL, at.cache_control.clone())?;
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(0))?;
        self.mark(&mut head, ctx, &OF_ROUTE)?;
        dress::answer(session.req_header(), &mut head, ctx);
        self.send(session, head, Body::new()).await
    }

    /// Answers if no file can be sent. The cause is logged for the operator, and not shown to the client.
    pub(super) async fn no_file(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        why: FileOutcome,
    ) -> Result<Next> {
        self.parts.metrics.file(why);
        ctx.result = CacheResult::File;
        ctx.detail = Some(why.as_str());
        let problem = match why {
            FileOutcome::Failed => {
                ctx.result = CacheResult::Error;
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the file can't be read")
            }
            _ => Problem::new(StatusCode::NOT_FOUND, "there is no such file"),
        };
        self.send_problem(session, ctx, problem).await
    }

    /// Sends a file: all of it, ranges of it, or 304.
    pub(super) async fn send_file(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        file: Outgoing<'_>,
    ) -> Result<Next> {
        let Outgoing { source, facts, fields, orders, status } = file;
        let request = session.req_header();
        // A request with another method that led here reads the file (as nginx's internal redirects do).
        let method = if request.method == Method::HEAD { &Method::HEAD } else { &Method::GET };
        let answer::Plan { mut head, pieces } =
            answer::plan(method, &request.headers, facts, fields, clock::wall());
        let outcome = outcome(head.status);
        let rules = &ctx.site.plan.config.encoding;
        let how = (orders.at_once, *method == Method::HEAD);
        let codec = self.fit(&mut head, &request.headers, how, rules, Some(facts.length))?;
        let most = if codec.is_some() { TURN.min(send::PIECE) } else { send::PIECE };
        self.mark(&mut head, ctx, &status)?;
        ctx.result = CacheResult::File;
        dress::answer(request, &mut head, ctx);
        let sent = match (source, codec) {
            (Source::Here(content), None) => self.send(session, head, in_memory(&content, pieces)).await,
            (Source::Here(content), codec) => {
                let pieces = Pieces::Here(in_memory(&content, pieces));
                self.send_pieces(session, head, pieces, codec).await
            }
            (Source::File(opened), codec) => {
                let by_itself = codec.is_none() && !session.is_http2() && answer::length(&pieces) > SMALL;
                let to = ctx.signals.clone().filter(|to| by_itself && to.file.is_offered());
                let pieces = FilePieces::new(opened, pieces, most, orders.rate, to);
                self.send_pieces(session, head, Pieces::File(Box::new(pieces)), codec).await
            }
        };
        self.parts.metrics.file(match &sent {
            Ok(_) => outcome,
            Err(error) if *error.esource() == ErrorSource::Internal => FileOutcome::Failed,
            Err(_) if ctx.signals.as_ref().is_some_and(|to| to.file.was_short()) => {
                tracing::warn!("a file was truncated while it was sent");
                FileOutcome::Failed
            }
            Err(_) => FileOutcome::Aborted,
        });
        sent
    }
}

/// The pieces of a file in memory.
fn in_memory(content: &Bytes, pieces: Vec<Piece>) -> Body {
    let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
    let bytes = |piece| match piece {
        Piece::Here(bytes) => bytes,
        Piece::File(range) => content.slice(within(range.start)..within(range.end)),
    };
    Body::from_pieces(pieces.into_iter().map(bytes).collect())
}

/// Translates an error of opening a file into the outcome that is counted.
pub(super) fn meaning(error: &OpenError) -> FileOutcome {
    match error {
        OpenError::NotFound => FileOutcome::NotFound,
        OpenError::Link => FileOutcome::Link,
        OpenError::Directory | OpenError::NotRegular => FileOutcome::NotRegular,
        OpenError::Denied => FileOutcome::Denied,
        OpenError::NotNow | OpenError::Io(_) => {
            tracing::error!(%error, "a file can't be opened");
            FileOutcome::Failed
        }
    }
}

fn outcome(status: StatusCode) -> FileOutcome {
    match status {
        StatusCode::PARTIAL_CONTENT => FileOutcome::Partial,
        StatusCode::NOT_MODIFIED => FileOutcome::NotModified,
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => FileOutcome::Unfit,
        _ => FileOutcome::Whole,
    }
}

/// Path and query with a slash after the path. Leading slashes are merged: two of them would name a host.
fn with_slash(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path().trim_start_matches(['/', '\\']);
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    HeaderValue::try_from(format!("/{path}/{query}")).ok()
}

/// The number of bytes that are read after the disk had to be waited for, before `sendfile` is used again.
const COLD: u64 = 8 << 20;

/// The pieces of a file that is being sent.
pub(super) struct FilePieces {
    opened: Arc<Opened>,
    left: VecDeque<Piece>,
    reader: Option<Reader>,
    most: usize,
    /// The last piece: its buffer is reused if nobody else holds it any more.
    last: Bytes,
    pace: Option<Pace>,
    /// The connection, if it can send files by itself.
    to: Option<Arc<Signals>>,
}

impl Drop for FilePieces {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl FilePieces {
    fn new(
        opened: Arc<Opened>,
        pieces: Vec<Piece>,
        most: usize,
        rate: Option<u64>,
        to: Option<Arc<Signals>>,
    ) -> Self {
        let most = rate.map_or(most, |rate| send::piece_at(rate).min(most));
        let (reader, last) = (None, Bytes::new());
        Self { opened, left: pieces.into(), reader, most, last, pace: rate.map(Pace::new), to }
    }

    /// The next piece.
    ///
    /// # Errors
    /// If the file can't be read to its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.read().await.map_err(|error| {
            tracing::warn!(%error, "a file could not be sent to its end");
            Error::because(ErrorType::InternalError, "reading a file", error).into_in()
        })?;
        if let (Some(pace), Some(piece)) = (&mut self.pace, &piece) {
            pace.wait(piece.len()).await;
        }
        Ok(piece)
    }

    fn take_back(&self) {
        if let Some(to) = &self.to {
            to.file.take_back();
        }
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        self.take_back();
        loop {
            if let Some(reader) = &mut self.reader {
                reader.recycle(std::mem::take(&mut self.last));
                if let Some(piece) = reader.next().await? {
                    self.last = piece.clone();
                    return Ok(Some(piece));
                }
                self.reader = None;
            }
            match self.left.pop_front() {
                None => return Ok(None),
                Some(Piece::Here(bytes)) => return Ok(Some(bytes)),
                Some(Piece::File(range)) => {
                    if let Some(handed) = self.hand(&range)? {
                        return Ok(Some(handed));
                    }
                    let end = if self.to.is_some() { range.end.min(range.start + COLD) } else { range.end };
                    self.go_on(end..range.end);
                    self.reader = Some(Reader::new(self.opened.clone(), range.start..end, self.most));
                }
            }
        }
    }

    /// Passes the beginning of a range to the connection, if the connection can send it and the pages are in
    /// memory.
    fn hand(&mut self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        let Some(to) = self.to.clone() else { return Ok(None) };
        let most = if self.pace.is_some() { self.most } else { HANDED };
        let length = usize::try_from(range.end - range.start).unwrap_or(most).min(most);
        let end = range.start + length as u64;
        if !send::is_at_hand(&self.opened, &(range.start..end))? {
            return Ok(None);
        }
        self.go_on(end..range.end);
        Ok(Some(to.file.hand(&self.opened, range.start, length)))
    }

    /// Makes the rest of a range the next one.
    fn go_on(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.left.push_front(Piece::File(range));
        }
    }
}

/// A limit of the rate at which a body is sent.
pub(super) struct Pace {
    began: Instant,
    sent: u64,
    rate: u64,
}

impl Pace {
    /// A limit of `rate` bytes a second, from now on.
    pub(super) fn new(rate: u64) -> Self {
        Self { began: Instant::now(), sent: 0, rate }
    }

    /// Waits until `more` bytes may be sent.
    pub(super) async fn wait(&mut self, more: usize) {
        tokio::time::sleep(self.pause(more)).await;
    }

    /// The time to wait until `more` bytes may be sent.
    pub(super) fn pause(&mut self, more: usize) -> std::time::Duration {
        let pause = send::pause(self.sent, self.rate, self.began.elapsed());
        self.sent += more as u64;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_leads_to_no_other_host() {
        for (uri, location) in [
            ("/docs", "/docs/"),
            ("/docs?a=1&b=/", "/docs/?a=1&b=/"),
            ("//evil.example/docs", "/evil.example/docs/"),
            ("/big%20docs", "/big%20docs/"),
        ] {
            assert_eq!(with_slash(&uri.parse().unwrap()).unwrap(), location, "{uri}");
        }
    }
}
