//! Opening the byte stream that a probe talks over.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::fault::Fault;
use super::progress::{Progress, Stage};
use super::tls::Tls;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connection of whatever kind. Dropping it closes it.
pub(super) type Stream = Box<dyn Bytes>;

/// What a [`Stream`] can do.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Connects, and negotiates TLS if it is asked for. The caller bounds the time.
pub(super) async fn open(target: &Target, tls: Option<&Tls>, progress: &Progress) -> Result<Stream, Fault> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(Fault::connect)?;
            // One small request: waiting to fill a segment would only add delay. Failing to ask for that is no
            // fault.
            let _ = stream.set_nodelay(true);
            secure(stream, tls, progress).await
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(Fault::connect)?;
            secure(stream, tls, progress).await
        }
    }
}

async fn secure<S>(stream: S, tls: Option<&Tls>, progress: &Progress) -> Result<Stream, Fault>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    progress.enter(Stage::Securing);
    let secured = tls.connect(stream).await.map_err(Fault::handshake)?;
    Ok(Box::new(secured))
}
