//! From [`Settings`] to a connection that has proved that it can decide: AUTH, SELECT, SCRIPT LOAD, and one
//! decision on a key of our own. A replica, a full or a loading server, and a user without the rights all fail
//! that last step, so that they are found out here and not by requests.

use std::net::SocketAddr;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::AsyncDNSResolver;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisFuture,
    RedisResult, TlsCertificates,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::ban::Bans;
use super::certificate;
use super::failure::{clean, describe};
use super::script;
use super::sentinel::{self, Vigil};
use super::settings::{Mode, Server, Settings, Tls};

/// One connection. Dropping it, and what was cloned from it, closes the socket.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    pushes: UnboundedReceiver<PushInfo>,
    /// RESP3: the library tells when the socket has closed. With RESP2 the next call finds out.
    watched: bool,
    /// In sentinel mode: whether it still leads to the master.
    vigil: Option<Vigil>,
}

impl Connection {
    /// Waits until it is of no more use; why.
    ///
    /// What is pushed meanwhile is passed on.
    pub(super) async fn ended(&mut self, bans: &Bans) -> &'static str {
        let Self { pushes, watched, vigil, .. } = self;
        let replaced = async {
            match vigil {
                Some(vigil) => vigil.replaced().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = closed(pushes, bans), if *watched => "connection closed by the server",
            () = replaced => sentinel::REPLACED,
        }
    }

    /// Ends it as well when the sentinels know better.
    pub(super) fn watched_by(self, vigil: Vigil) -> Self {
        Self { vigil: Some(vigil), ..self }
    }
}

/// Waits until the socket is closed by the other side.
async fn closed(pushes: &mut UnboundedReceiver<PushInfo>, bans: &Bans) {
    while let Some(push) = pushes.recv().await
        && push.kind != PushKind::Disconnection
    {
        bans.heard(&push);
    }
}

/// Connects and proves, taking at most `connect_timeout` for each server.
///
/// # Errors
/// What was wrong with the last server tried, in one clean line.
pub(super) async fn connect(settings: &Settings) -> Result<Connection, String> {
    let mut reason = "no server".to_owned();
    let proof = script::probe_key(&settings.key_prefix, None);
    if let Mode::Sentinel { master, username, password } = &settings.mode {
        let login = (username.clone(), password.clone());
        return sentinel::connect(settings, master, login, &proof).await;
    }
    for server in &settings.servers {
        reason = match open(settings, server, Some(&proof)).await {
            Ok(connection) => return Ok(connection),
            Err(reason) => format!("{server}: {reason}"),
        };
    }
    Err(reason)
}

/// One server, within `connect_timeout`. Decides once on the key `proof`, unless it is none: then the connection
/// is logged in and has the script, and that is all that is known of it.
///
/// # Errors
/// What was wrong, in one clean line.
pub(super) async fn open(
    settings: &Settings,
    server: &Server,
    proof: Option<&str>,
) -> Result<Connection, String> {
    match timeout(settings.connect_timeout, negotiate(settings, server, proof)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(timed_out(settings)),
    }
}

/// Why there is no connection within `connect_timeout`. A server that does not speak TLS waits for more of what it
/// takes for a command.
pub(super) fn timed_out(settings: &Settings) -> String {
    let hint = if settings.tls.is_some() { " (with \"tls on\": does this port speak it?)" } else { "" };
    format!("connect timed out{hint}")
}

/// One attempt, with the older protocol if this server or user will not have the newer one.
async fn negotiate(settings: &Settings, server: &Server, proof: Option<&str>) -> RedisResult<Connection> {
    match login(settings, server, proof, ProtocolVersion::RESP3).await {
        Err(error) if speaks_only_resp2(&error) => {
            login(settings, server, proof, ProtocolVersion::RESP2).await
        }
        other => other,
    }
}

/// HELLO unknown (a proxy), or forbidden to this user.
fn speaks_only_resp2(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported || matches!(error.code(), Some("NOPERM" | "NOPROTO" | "ERR"))
}

/// Connects, loads the script, and decides once.
async fn login(
    settings: &Settings,
    server: &Server,
    proof: Option<&str>,
    protocol: ProtocolVersion,
) -> RedisResult<Connection> {
    let (sender, pushes) = unbounded_channel();
    let watched = protocol == ProtocolVersion::RESP3;
    let mut redis = enter(settings, server, protocol, watched.then_some(sender)).await?;
    script::load(&mut redis).await?;
    if let Some(key) = proof {
        script::prove(&mut redis, key).await?;
    }
    Ok(Connection { redis, pushes, watched, vigil: None })
}

/// Connects and logs in, and that is all.
pub(super) async fn enter(
    settings: &Settings,
    server: &Server,
    protocol: ProtocolVersion,
    pushes: Option<UnboundedSender<PushInfo>>,
) -> RedisResult<MultiplexedConnection> {
    // The deadlines are ours: `open` bounds the attempt, the link each batch.
    let mut config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    if let Some(sender) = pushes {
        config = config.set_push_sender(sender);
    }
    if let Some(resolver) = Renamed::of(settings, server) {
        config = config.set_dns_resolver(resolver);
    }
    client(settings, server, protocol)?.get_multiplexed_async_connection_with_config(&config).await
}

/// The client library's idea of where to connect.
fn client(settings: &Settings, server: &Server, protocol: ProtocolVersion) -> RedisResult<Client> {
    let mut login = RedisConnectionInfo::default()
        .set_db(i64::from(settings.database))
        .set_protocol(protocol)
        .set_skip_set_lib_name();
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.reveal());
    }
    let info = address(settings, server).into_connection_info()?.set_redis_settings(login);
    secure(settings.tls.as_ref(), info)
}

/// Adds certificates to a connection that uses TLS.
fn secure(tls: Option<&Tls>, info: ConnectionInfo) -> RedisResult<Client> {
    match tls {
        Some(tls) => Client::build_with_tls(info, certificates(tls)),
        None => Client::open(info),
    }
}

/// The library's form of an address. With `tls_name` that name takes the place of the host, so that it is asked
/// for and verified, and [`Renamed`] leads it back to the host.
fn address(settings: &Settings, server: &Server) -> ConnectionAddr {
    match (server, &settings.tls) {
        (Server::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
        (Server::Tcp { host, port }, None) => ConnectionAddr::Tcp(host.clone(), settings.port(*port)),
        (Server::Tcp { host, port }, Some(tls)) => ConnectionAddr::TcpTls {
            host: tls.name.clone().unwrap_or_else(|| host.clone()),
            port: settings.port(*port),
            insecure: !tls.verify,
            tls_params: None,
        },
    }
}

/// Certificates in the library's form.
fn certificates(tls: &Tls) -> TlsCertificates {
    let client_tls = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: certificate.clone(),
            client_key: key.reveal().as_bytes().to_vec(),
        }),
        _ => None,
    };
    TlsCertificates { client_tls, root_cert: tls.ca.clone() }
}

/// Reads the certificates as a connection would, and looks closer.
///
/// # Errors
/// What is wrong with them, in one line.
pub(super) fn check(settings: &Settings) -> Result<(), String> {
    let (Some(tls), Some(server)) = (&settings.tls, settings.servers.first()) else { return Ok(()) };
    let tried = address(settings, server).into_connection_info().and_then(|info| secure(Some(tls), info));
    tried.map(drop).map_err(|error| clean(&error.to_string()))?;
    certificate::check(tls)
}

/// Resolves whatever it is asked to the host of one server.
struct Renamed {
    host: String,
}

impl Renamed {
    /// Some where `tls_name` hides the real host.
    fn of(settings: &Settings, server: &Server) -> Option<Self> {
        settings.tls.as_ref()?.name.as_ref()?;
        match server {
            Server::Tcp { host, .. } => Some(Self { host: host.clone() }),
            Server::Unix(_) => None,
        }
    }
}

impl AsyncDNSResolver for Renamed {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((self.host.as_str(), port)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Box<dyn Iterator<Item = _> + Send>)
        })
    }
}
