//! Why a change is refused, with the codes of NGINX Plus.

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("unknown parameter \"{0}\"")]
    Unknown(String),
    #[error("missing \"{0}\" argument")]
    Missing(&'static str),
    #[error("invalid value of \"{0}\"")]
    Value(String),
    #[error("the body must be an object")]
    Body,
    #[error("{0}")]
    Format(String),
    #[error("invalid server address \"{0}\"")]
    Address(String),
    #[error("invalid \"weight\", a whole number from 1 to 65535 expected")]
    Weight,
    #[error("{0}")]
    WeightFixed(&'static str),
    #[error("invalid \"max_conns\", a whole number expected")]
    MaxConns,
    #[error("invalid \"max_fails\", a whole number expected")]
    MaxFails,
    #[error("invalid \"fail_timeout\", a time such as \"10s\" expected")]
    FailTimeout,
    #[error("invalid \"slow_start\", a time such as \"30s\" expected")]
    SlowStart,
    #[error("invalid \"route\", at most 32 characters, none of them a semicolon, expected")]
    Route,
    #[error("no resolver defined to resolve \"{0}\", and servers are added by address only")]
    NoResolver(String),
    #[error("{0}")]
    Service(&'static str),
    #[error("upstream \"{0}\" has no backup servers: its balancing method does not support them")]
    NoBackup(String),
    #[error("{0}")]
    Memory(&'static str),
    #[error("{0}")]
    Immutable(&'static str),
    #[error("server \"{0}\" exists already")]
    Exists(String),
    #[error(
        "upstream \"{0}\" is static: it has no zone in shared memory, or a balancer that keeps other lists"
    )]
    Static(String),
    #[error("server with ID \"{0}\" does not exist")]
    NoServer(u64),
}

impl Fault {
    /// The code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::Missing(_) | Self::Value(_) | Self::Body | Self::Format(_) => {
                "UpstreamConfFormatError"
            }
            Self::Address(_) => "UpstreamBadAddress",
            Self::Weight => "UpstreamBadWeight",
            Self::WeightFixed(_) => "UpstreamServerWeightImmutable",
            Self::MaxConns => "UpstreamBadMaxConns",
            Self::MaxFails => "UpstreamBadMaxFails",
            Self::FailTimeout => "UpstreamBadFailTimeout",
            Self::SlowStart => "UpstreamBadSlowStart",
            Self::Route => "UpstreamBadRoute",
            Self::Service(_) => "UpstreamBadService",
            Self::NoResolver(_) => "UpstreamConfNoResolver",
            Self::NoBackup(_) => "UpstreamNoBackup",
            Self::Memory(_) => "UpstreamOutOfMemory",
            Self::Immutable(_) => "UpstreamServerImmutable",
            Self::Exists(_) => "EntryExists",
            Self::Static(_) => "UpstreamStatic",
            Self::NoServer(_) => "UpstreamServerNotFound",
        }
    }

    /// The status of the response.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::NoServer(_) => 404,
            Self::Exists(_) => 409,
            _ => 400,
        }
    }
}
