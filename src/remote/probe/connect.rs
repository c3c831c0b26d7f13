//! Opening the byte stream that a probe talks over.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpStream, UnixStream};

use super::fault::Fault;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(super) async fn tcp(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await.map_err(Fault::connect)?;
    // One small request: waiting to fill a segment would only add delay. Failing to ask for that is no fault.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

pub(super) async fn unix(path: &Path) -> Result<UnixStream, Fault> {
    UnixStream::connect(path).await.map_err(Fault::connect)
}
