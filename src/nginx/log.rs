//! nginx's error log in nginx's voice: lower case, value quoted, context last.

use core::fmt;

use nginx_sys as sys;

/// Severity, as in `error_log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Emerg = sys::NGX_LOG_EMERG as isize,
    Alert = sys::NGX_LOG_ALERT as isize,
    Error = sys::NGX_LOG_ERR as isize,
    Warn = sys::NGX_LOG_WARN as isize,
    Notice = sys::NGX_LOG_NOTICE as isize,
    Info = sys::NGX_LOG_INFO as isize,
}

impl Level {
    /// One step less severe: what a delay is logged at when a refusal is logged at `self`.
    pub fn below(self) -> Self {
        match self {
            Self::Emerg | Self::Alert | Self::Error => Self::Warn,
            Self::Warn => Self::Notice,
            Self::Notice | Self::Info => Self::Info,
        }
    }
}

/// Writes one line to `log`, which adds what it knows (connection, client, request).
///
/// # Safety
/// `log` must be a log nginx keeps alive for the duration of the call.
pub unsafe fn write(level: Level, log: *mut sys::ngx_log_t, message: fmt::Arguments<'_>) {
    ngx::ngx_log_error!(level as usize, log, "{}", message);
}

/// Writes one line to the log of the running cycle. Before nginx has a cycle, to nowhere.
pub fn cycle(level: Level, message: fmt::Arguments<'_>) {
    // SAFETY: nginx sets ngx_cycle before it loads a module and keeps its log for the cycle's life;
    // only the event-loop thread gets here.
    unsafe {
        let cycle = sys::ngx_cycle;
        if !cycle.is_null() && !(*cycle).log.is_null() {
            write(level, (*cycle).log, message);
        }
    }
}
