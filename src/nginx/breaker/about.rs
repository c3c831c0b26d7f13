//! What a breaker is of, for logs and events.

/// What a breaker is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Route(String),
    Upstream(String),
    Server { upstream: String, server: String },
}

impl core::fmt::Display for About {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Route(name) => write!(f, "route \"{name}\""),
            Self::Upstream(name) => write!(f, "upstream \"{name}\""),
            Self::Server { upstream, server } => write!(f, "server {server} of upstream \"{upstream}\""),
        }
    }
}

impl About {
    /// Group and server in an event; a route stands for a group of its own.
    pub fn names(&self) -> (String, &str) {
        match self {
            Self::Route(name) => (format!("route:{name}"), ""),
            Self::Upstream(name) => (name.clone(), ""),
            Self::Server { upstream, server } => (upstream.clone(), server),
        }
    }
}
