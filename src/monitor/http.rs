//! HTTP/1.1 as far as a monitoring port needs it: the requests that are allowed, and whole answers.
//!
//! Bounds: a head of `HTTP_HEAD_BYTES_MAX` with `HTTP_HEADERS_MAX` headers, a discarded body of
//! `HTTP_BODY_BYTES_MAX`. A request beyond them ends the connection with the status that says why.

use std::time::SystemTime;

use crate::base::limits::{HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::monitor::query::{Query, unescape};
use crate::monitor::text;
use crate::protocol::http::{Head, HeadError, HeadLimits, HeadReader};

/// One request; its body has been discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// HEAD: the answer is sent without its body.
    pub head_only: bool,
    /// Percent-decoded; starts with `/`.
    pub path: String,
    pub query: Query,
    /// True if the connection stays open after the answer.
    pub keep_alive: bool,
}

/// Why a request is answered with an error, after which the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Malformed,
    MissingHost,
    HeadTooLarge,
    BodyTooLarge,
    Method,
    TransferEncoding,
}

impl Refused {
    pub fn response(self) -> Response {
        let (status, body) = match self {
            Self::Malformed => (400, "400 Bad Request"),
            Self::MissingHost => (400, "400 Bad Request: missing required Host header"),
            Self::Method => (405, "405 Method Not Allowed"),
            Self::BodyTooLarge => (413, "413 Content Too Large"),
            Self::HeadTooLarge => (431, "431 Request Header Fields Too Large"),
            Self::TransferEncoding => (501, "501 Unsupported transfer encoding"),
        };
        Response::text(status, body)
    }
}

impl From<HeadError> for Refused {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::Malformed,
            HeadError::TooLarge => Self::HeadTooLarge,
        }
    }
}

const HEAD_LIMITS: HeadLimits =
    HeadLimits { bytes_max: HTTP_HEAD_BYTES_MAX, headers_max: HTTP_HEADERS_MAX };

/// Turns one connection's bytes into requests.
#[derive(Debug, Default)]
pub struct RequestReader {
    heads: HeadReader,
    /// Body bytes still to be discarded.
    skip: usize,
}

impl RequestReader {
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.heads.push(&bytes[skipped..]);
    }

    /// Returns true if part of a request has arrived.
    pub fn is_half_way(&self) -> bool {
        self.skip > 0 || self.heads.held() > 0
    }

    /// Returns the bytes held; the caller stops reading while there is more than a head.
    pub fn held(&self) -> usize {
        self.heads.held()
    }

    /// Returns the next whole request.
    ///
    /// # Errors
    /// The error to answer with before closing the connection.
    pub fn next_request(&mut self) -> Result<Option<Request>, Refused> {
        if self.skip > 0 {
            return Ok(None);
        }
        let Some(head) = self.heads.next_head(HEAD_LIMITS)? else { return Ok(None) };
        let (request, body_size) = understand(&head)?;
        self.skip = body_size - self.heads.discard(body_size);
        Ok(Some(request))
    }
}

/// Returns the request in a head, and the size of the body that follows.
fn understand(head: &Head) -> Result<(Request, usize), Refused> {
    let head_only = match head.method.as_str() {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refused::Method),
    };
    if head.all("transfer-encoding").next().is_some() {
        return Err(Refused::TransferEncoding);
    }
    let body_size = usize::try_from(head.content_length()?).unwrap_or(usize::MAX);
    match head.all("host").count() {
        0 if head.is_modern => return Err(Refused::MissingHost),
        0 | 1 => {}
        _ => return Err(Refused::Malformed),
    }
    // Proxies may send the whole URL.
    let target = match head.target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => &head.target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = unescape(path, false).filter(|path| path.starts_with('/'));
    let path = path.ok_or(Refused::Malformed)?;
    if body_size > HTTP_BODY_BYTES_MAX {
        return Err(Refused::BodyTooLarge);
    }
    let request =
        Request { head_only, path, query: Query::parse(query), keep_alive: head.keeps_alive() };
    Ok((request, body_size))
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    /// True if pages of other origins may read it.
    pub cross_origin: bool,
    /// True if lists were cut because they were too long.
    pub cut: bool,
    /// Shards that did not answer in time, and whose data is therefore missing.
    pub late_shards: Vec<usize>,
    pub body: Vec<u8>,
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const HTML: &str = "text/html; charset=utf-8";

impl Response {
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type: JSON,
            cross_origin: true,
            cut: false,
            late_shards: Vec::new(),
            body,
        }
    }

    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        Self {
            status,
            content_type: TEXT,
            cross_origin: false,
            cut: false,
            late_shards: Vec::new(),
            body,
        }
    }

    pub fn html(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status: 200,
            content_type: HTML,
            cross_origin: false,
            cut: false,
            late_shards: Vec::new(),
            body,
        }
    }

    /// Returns the answer for an unknown path. Source: Go net/http NotFound.
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }

    /// Returns the bytes to send.
    pub fn encode(&self, now: SystemTime, head_only: bool, keep_alive: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            _ => "Service Unavailable",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        if self.cross_origin {
            head.push_str("Access-Control-Allow-Origin: *\r\n");
        }
        head.push_str(&format!(
            "Content-Type: {}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n",
            self.content_type
        ));
        if self.content_type == HTML {
            // The pages are self-contained: nothing else may be loaded or run, and nobody may frame
            // them. The dashboard's live tap connects to the port for WebSocket.
            head.push_str(
                "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
                 script-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:; \
                 frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n",
            );
        }
        if self.status == 405 {
            head.push_str("Allow: GET, HEAD\r\n");
        }
        if self.cut {
            head.push_str("X-Midge-Cut: true\r\n");
        }
        if !self.late_shards.is_empty() {
            let names: Vec<String> = self.late_shards.iter().map(usize::to_string).collect();
            head.push_str(&format!("X-Midge-Late-Shards: {}\r\n", names.join(",")));
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str(&format!(
            "Date: {}\r\nContent-Length: {}\r\n\r\n",
            text::http_date(now),
            self.body.len()
        ));
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
