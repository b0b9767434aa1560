//! Accepts connections, a bounded number at a time, until it is told to stop; then lets the
//! requests in progress finish.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::io::Impatient;
use super::{ApiError, Dialect, route};
use crate::limits::{CONNECTIONS, HEAD_BYTES, HEAD_TIME, HEADERS, RETRY_AFTER_S, WRITE_TIME};
use crate::state::App;

/// Serves until `stop` becomes true, then for at most `grace` what was begun. Gives the number of
/// requests that did not finish in time.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) -> usize {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => match room.clone().try_acquire_owned() {
                Ok(permit) => {
                    tokio::spawn(connection(stream, peer.ip(), app.clone(), stop.clone(), permit));
                }
                Err(_) => refuse(stream),
            },
            Err(error) => pause(&error).await,
        }
    }
    drop(listener);
    drain(&app, &room, grace).await
}

/// Answers one connection's requests, one after the other.
async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true); // only slower without
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(route::handle(app, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Impatient::new(stream, WRITE_TIME)), service);
    let mut connection = std::pin::pin!(connection);
    // What ends it with an error is the client's doing: it left, stalled or sent no HTTP.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = told(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Waits for the order to stop; a sender that is gone gave it.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells a client that there is no room, without waiting for it.
fn refuse(mut stream: TcpStream) {
    tokio::spawn(async move {
        let told = async {
            stream.write_all(full().as_bytes()).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    });
}

/// What a connection beyond the limit reads.
fn full() -> String {
    let body = ApiError::unavailable("too many connections").body(Dialect::OpenAi).to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         retry-after: {RETRY_AFTER_S}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An error of `accept` is of one connection, or means that the process has no files left.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Waits until no request is in flight; connections that only idle are not waited for. Answers that are
/// not whole in time end with an error, and get a moment to tell it.
async fn drain(app: &App, room: &Semaphore, grace: Duration) -> usize {
    const LAST_WORDS: Duration = Duration::from_secs(1);
    let unfinished = quiet(app, room, grace).await;
    if unfinished > 0 {
        app.cut_off();
        quiet(app, room, LAST_WORDS).await;
    }
    unfinished
}

/// Waits for that, for some time at most. Gives the number of requests that are in flight then.
async fn quiet(app: &App, room: &Semaphore, time: Duration) -> usize {
    let until = Instant::now() + time;
    let mut quiet = 0;
    loop {
        quiet = if app.in_flight() == 0 { quiet + 1 } else { 0 };
        // what hyper still has to write leaves in the next moments
        if room.available_permits() == CONNECTIONS || quiet > 10 || Instant::now() >= until {
            return app.in_flight();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
