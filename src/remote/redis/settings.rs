//! One `redis NAME { … }` as the configuration describes it, and what can be wrong with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Default port of a Redis server.
const PORT: u16 = 6379;
/// Default port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// Everything needed to reach one Redis. Files (password, certificates, keys) were read by the configuration
/// layer, which may still do so as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// NAME of the block, for logs.
    pub name: String,
    /// One or more. Standalone: tried in this order; sentinel mode: the sentinels; cluster mode: whoever of them
    /// answers first tells who the others are.
    pub servers: Vec<Server>,
    pub mode: Mode,
    /// Number of the database; cluster mode has only 0.
    pub database: u32,
    /// ACL user; needs a password.
    pub username: Option<String>,
    /// Password of the ACL user, or of `requirepass`.
    pub password: Option<Secret>,
    /// None: plain text.
    pub tls: Option<Tls>,
    /// What the name of every key begins with.
    pub key_prefix: String,
    /// Longest time until a new connection has proved that it can decide.
    pub connect_timeout: Duration,
    /// The deadline of one decision. An answer that takes longer is not counted as a sign of health.
    pub timeout: Duration,
    pub breaker: Breaker,
    /// Whether bans are shared through it.
    pub bans: bool,
}

/// How `servers` are to be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Standalone,
    /// The servers are sentinels, which are asked for the master of this name.
    Sentinel {
        master: String,
        username: Option<String>,
        password: Option<Secret>,
    },
    Cluster,
}

/// Address of one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// Host name or IP address (IPv6 without brackets); no port stands for the default one.
    Tcp { host: String, port: Option<u16> },
    /// Path of a socket.
    Unix(PathBuf),
}

/// TLS to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// CA certificates, PEM. None: those of the system.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its chain, PEM; needs `key`.
    pub certificate: Option<Vec<u8>>,
    /// Our private key, PEM; needs `certificate`.
    pub key: Option<Secret>,
    /// Name to ask for and to verify. None: the host of the server.
    pub name: Option<String>,
    /// False: the server's certificate is not looked at.
    pub verify: bool,
}

/// `breaker [failures=5] [open=1s]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row after which no request waits any more; at least 1.
    pub failures: u32,
    /// Time from one test of a lost Redis to the next. A lost cluster is tested twice as often, a master behind
    /// sentinels four times.
    pub open: Duration,
}

/// A text that is never shown: neither `Debug` nor `Display` says more than that it exists.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What is wrong with a `redis` block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("invalid redis server \"{0}\", expected HOST[:PORT], [IPV6][:PORT] or unix:PATH")]
    Server(String),
    #[error("redis \"{0}\" has no \"server\"")]
    NoServer(String),
    #[error("redis \"{0}\" in sentinel mode needs \"master\"")]
    NoMaster(String),
    #[error("redis \"{0}\" in cluster mode has no \"database\" but 0")]
    Database(String),
    #[error("redis \"{0}\" cannot use a unix socket in this mode or with tls")]
    Socket(String),
    #[error("redis \"{0}\" has \"username\" without \"password\"")]
    NoPassword(String),
    #[error("redis \"{0}\" needs \"tls_certificate\" and \"tls_certificate_key\" together")]
    HalfKey(String),
    #[error("redis \"{name}\" cannot use its certificates: {reason}")]
    Certificate { name: String, reason: String },
    #[error(
        "redis \"{0}\" needs \"connect_timeout\", \"timeout\" and \"open\" above 0, and \"failures\" of 1 or more"
    )]
    Zero(String),
}

impl Settings {
    /// A standalone Redis with the defaults of the directives, and no server yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            servers: Vec::new(),
            mode: Mode::Standalone,
            database: 0,
            username: None,
            password: None,
            tls: None,
            key_prefix: "sluice".to_owned(),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_millis(50),
            breaker: Breaker { failures: 5, open: Duration::from_secs(1) },
            bans: false,
        }
    }

    /// Checks what the parameters mean together. Opens no connection and no file.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let name = || self.name.clone();
        if self.servers.is_empty() {
            return Err(SettingsError::NoServer(name()));
        }
        self.validate_mode()?;
        if self.username.is_some() && self.password.is_none() {
            return Err(SettingsError::NoPassword(name()));
        }
        if self.tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            return Err(SettingsError::HalfKey(name()));
        }
        let Breaker { failures, open } = self.breaker;
        if failures == 0 || open.is_zero() || self.timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(SettingsError::Zero(name()));
        }
        super::connect::check(self).map_err(|reason| SettingsError::Certificate { name: name(), reason })
    }

    /// The part of [`validate`](Self::validate) about servers and the mode.
    fn validate_mode(&self) -> Result<(), SettingsError> {
        let name = || self.name.clone();
        match &self.mode {
            Mode::Standalone => {}
            Mode::Sentinel { master, .. } if master.is_empty() => {
                return Err(SettingsError::NoMaster(name()));
            }
            Mode::Cluster if self.database != 0 => return Err(SettingsError::Database(name())),
            Mode::Sentinel { .. } | Mode::Cluster => {}
        }
        let sockets = self.servers.iter().any(|server| matches!(server, Server::Unix(_)));
        if sockets && (self.mode != Mode::Standalone || self.tls.is_some()) {
            return Err(SettingsError::Socket(name()));
        }
        Ok(())
    }

    /// The port of `server`, or the default one of the mode.
    pub(super) fn port(&self, port: Option<u16>) -> u16 {
        port.unwrap_or(if matches!(self.mode, Mode::Sentinel { .. }) { SENTINEL_PORT } else { PORT })
    }
}

impl Server {
    /// Reads `HOST[:PORT]`, `[IPV6][:PORT]` or `unix:PATH`.
    ///
    /// # Errors
    /// [`SettingsError::Server`] with the text.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        Self::read(text).ok_or_else(|| SettingsError::Server(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(PathBuf::from(path)));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let named = text.starts_with('[') || is_host(host);
        let port = match port {
            Some(digits) => Some(read_port(digits)?),
            None => None,
        };
        named.then(|| Self::Tcp { host: host.to_owned(), port })
    }
}

/// Letters, digits, dot, dash and underscore: a name or an IPv4 address.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// 1 to 65535, digits only.
fn read_port(digits: &str) -> Option<u16> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|&port| port != 0)
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "[{host}]")?
                } else {
                    f.write_str(host)?
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who sends it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
