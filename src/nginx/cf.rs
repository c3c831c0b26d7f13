//! Reading directives: one trampoline for all setters, typed arguments, errors in nginx's voice.
//!
//! A directive is a row of the command table: its name, where it may stand, and a safe function from
//! arguments to a configuration struct. The function's pointer travels in the row's `post` field, so that
//! no setter needs an `extern "C"` wrapper of its own.

use core::ffi::{CStr, c_char, c_void};
use std::borrow::Cow;

use nginx_sys as sys;

use super::conf::{LocConf, MainConf, SrvConf};
use super::entry::entry;
use super::sys::{CONF_ERROR, CONF_OK};
use crate::policy::Millis;

/// Why a directive was refused. Shown after the directive's name, before file and line.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    #[error("is duplicate")]
    Duplicate,
    #[error("has an argument that is not UTF-8")]
    Encoding,
    #[error("has unknown parameter \"{0}\"")]
    UnknownParameter(String),
    #[error("has duplicate parameter \"{0}\"")]
    DuplicateParameter(String),
    #[error("must have \"{0}\" parameter")]
    Missing(&'static str),
    #[error("has invalid value \"{value}\" of \"{name}\", {expected} expected")]
    Invalid { name: Cow<'static, str>, value: String, expected: Cow<'static, str> },
    #[error("{0}")]
    Other(String),
    /// nginx has already logged the reason.
    #[error("was refused")]
    Logged,
}

impl ConfError {
    /// `value` is not what `name` takes.
    pub fn invalid(
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid { name: name.into(), value: value.into(), expected: expected.into() }
    }
}

pub type Result<T = ()> = core::result::Result<T, ConfError>;

/// A setter, by the configuration it writes to.
pub enum Setter {
    Main(fn(&Directive, &mut MainConf) -> Result),
    Server(fn(&Directive, &mut SrvConf) -> Result),
    Location(fn(&Directive, &mut LocConf) -> Result),
    /// A block at the http level: it borrows the configuration only when its lines have been read, because
    /// they may be setters of their own.
    Block(fn(&Directive, *mut MainConf) -> Result),
    /// A line of a block that brought its own state in `cf->handler_conf`.
    Line(fn(&Directive) -> Result),
}

/// A row of the command table. nginx compares names up to their NUL.
pub const fn directive(name: &'static CStr, kind: u32, setter: &'static Setter) -> sys::ngx_command_t {
    let conf = match setter {
        Setter::Main(_) | Setter::Block(_) | Setter::Line(_) => sys::NGX_HTTP_MAIN_CONF_OFFSET,
        Setter::Server(_) => sys::NGX_HTTP_SRV_CONF_OFFSET,
        Setter::Location(_) => sys::NGX_HTTP_LOC_CONF_OFFSET,
    };
    sys::ngx_command_t {
        name: sys::ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() },
        type_: kind as usize,
        set: Some(set),
        conf,
        offset: 0,
        post: core::ptr::from_ref(setter).cast_mut().cast(),
    }
}

/// What stands in the configuration: the directive being read.
pub struct Directive {
    cf: *mut sys::ngx_conf_t,
    words: Vec<&'static str>,
}

/// Where a directive stands, for messages that come later: ` in FILE:LINE`.
#[derive(Debug, Clone, Default)]
pub struct Place(String);

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Directive {
    /// The line the parser is at.
    pub fn read(cf: *mut sys::ngx_conf_t) -> Result<Self> {
        // SAFETY: nginx calls setters with the arguments of the line in cf->args, in the configuration's
        // pool, which outlives the cycle that keeps what setters copy; `'static` is never given out.
        let words = unsafe { (*(*cf).args).as_slice::<sys::ngx_str_t>() };
        let words = words
            .iter()
            // SAFETY: as above; the bytes live in the configuration pool.
            .map(|word| unsafe { core::mem::transmute::<&[u8], &'static [u8]>(word.as_bytes()) })
            .map(core::str::from_utf8)
            .collect::<core::result::Result<_, _>>()
            .map_err(|_| ConfError::Encoding)?;
        Ok(Self { cf, words })
    }

    /// The raw parser state.
    pub fn cf(&self) -> *mut sys::ngx_conf_t {
        self.cf
    }

    /// The directive's own name.
    pub fn name(&self) -> &str {
        self.words.first().copied().unwrap_or_default()
    }

    /// The arguments after the name.
    pub fn args(&self) -> &[&str] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The only argument; the command table guarantees its presence.
    pub fn arg(&self) -> &str {
        self.args().first().copied().unwrap_or_default()
    }

    /// Whether the key of a zone, its first argument, is `$binary_remote_addr` and nothing else.
    pub fn is_keyed_by_address(&self) -> bool {
        matches!(self.arg(), "$binary_remote_addr" | "${binary_remote_addr}")
    }

    /// `key=value` and bare-word parameters from argument `from` on, each at most once.
    pub fn params(&self, from: usize) -> Result<Vec<Param<'_>>> {
        let mut params: Vec<Param<'_>> = Vec::new();
        for text in self.args().get(from..).unwrap_or_default() {
            let param = Param::parse(text);
            if params.iter().any(|p| p.name == param.name) {
                return Err(ConfError::DuplicateParameter(param.name.to_owned()));
            }
            params.push(param);
        }
        Ok(params)
    }

    /// Whether the directive stands in an `upstream` block.
    pub fn in_upstream(&self) -> bool {
        // SAFETY: `cf` is the parser state nginx passed to the setter, alive during the call.
        unsafe { (*self.cf).cmd_type as u32 & sys::NGX_HTTP_UPS_CONF != 0 }
    }

    /// Whether the directive stands in a `server` block.
    pub fn in_server(&self) -> bool {
        // SAFETY: as in `in_upstream`.
        unsafe { (*self.cf).cmd_type as u32 & sys::NGX_HTTP_SRV_CONF != 0 }
    }

    /// Our http-level configuration. Only for setters that were not given it already.
    pub fn main_conf(&self) -> &MainConf {
        // SAFETY: as in `in_upstream`; inside an http block `ctx` has a slot for each module at the main level, ours
        // filled by create_main_conf.
        unsafe {
            let ctx = (*self.cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            &*(*super::sys::slot((*ctx).main_conf, super::module::main_module())).cast()
        }
    }

    /// Where this line stands.
    pub fn place(&self) -> Place {
        // SAFETY: as in `in_upstream`; conf_file is set while a file is parsed and NULL for `-g` text.
        unsafe {
            let file = (*self.cf).conf_file;
            if file.is_null() || (*file).file.fd == -1 {
                return Place(" in command line".to_owned());
            }
            Place(format!(" in {}:{}", (*file).file.name, (*file).line))
        }
    }

    /// A file name relative to the directory of nginx.conf, made absolute.
    pub fn full_path(&self, path: &str) -> Result<String> {
        full_path(self.cf, path)
    }

    /// Compiles text with variables.
    pub fn complex(&self, text: &str) -> Result<ComplexValue> {
        ComplexValue::compile(self.cf, text)
    }
}

/// One parameter of a directive.
pub struct Param<'a> {
    /// As typed.
    pub text: &'a str,
    /// Before the first `=`, or the bare word.
    pub name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Param<'a> {
    /// `name=value`, or a bare word.
    pub fn parse(text: &'a str) -> Self {
        match text.split_once('=') {
            Some((name, value)) => Self { text, name, value: Some(value) },
            None => Self { text, name: text, value: None },
        }
    }

    /// The value of `name=value`; an error for a bare word or an empty value.
    pub fn value(&self) -> Result<&'a str> {
        self.value.filter(|v| !v.is_empty()).ok_or_else(|| self.invalid("a value"))
    }

    /// A flag: the bare word without value.
    pub fn flag(&self) -> Result<bool> {
        if self.value.is_some() { Err(self.invalid("no value")) } else { Ok(true) }
    }

    /// A whole number.
    pub fn number(&self) -> Result<u64> {
        whole(self.value()?).ok_or_else(|| self.invalid("a whole number"))
    }

    /// A time in milliseconds.
    pub fn time(&self) -> Result<Millis> {
        parse_time(self.value()?).ok_or_else(|| self.invalid("a time such as 500ms, 5s or 1m"))
    }

    /// `on` or `off`.
    pub fn switch(&self) -> Result<bool> {
        match self.value()? {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(self.invalid("\"on\" or \"off\"")),
        }
    }

    /// A percentage, `50%` or `50`.
    pub fn percent(&self) -> Result<u64> {
        let text = self.value()?;
        let digits = text.strip_suffix('%').unwrap_or(text);
        whole(digits).filter(|p| *p <= 100).ok_or_else(|| self.invalid("a percentage from 0% to 100%"))
    }

    /// Not acceptable: `expected` says what would be.
    pub fn invalid(&self, expected: &'static str) -> ConfError {
        ConfError::invalid(self.name.to_owned(), self.value.unwrap_or_default(), expected)
    }

    /// No such parameter.
    pub fn unknown(&self) -> ConfError {
        ConfError::UnknownParameter(self.text.to_owned())
    }
}

/// Digits and nothing else.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// nginx's time syntax, in milliseconds; a bare number is seconds.
pub fn parse_time(text: &str) -> Option<Millis> {
    if text.is_empty() || text.starts_with('-') {
        return None;
    }
    let mut value = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: ngx_parse_time only reads `len` bytes at `data`.
    let parsed = unsafe { sys::ngx_parse_time(&raw mut value, 0) };
    Millis::try_from(parsed).ok()
}

/// nginx's size syntax (`64k`, `10m`), in bytes.
pub fn parse_size(text: &str) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    let mut value = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: ngx_parse_size only reads `len` bytes at `data`.
    let parsed = unsafe { sys::ngx_parse_size(&raw mut value) };
    usize::try_from(parsed).ok()
}

/// `on` or `off`.
pub fn parse_switch(directive: &Directive) -> Result<bool> {
    match directive.arg() {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(ConfError::invalid(directive.name().to_owned(), other, "\"on\" or \"off\"")),
    }
}

/// A file name relative to the directory of nginx.conf, made absolute. `cf` is the parser state of the configuration
/// being read or finished.
pub fn full_path(cf: *mut sys::ngx_conf_t, path: &str) -> Result<String> {
    // SAFETY: the caller vouches for `cf`; the name is copied, NUL-terminated, into its pool, as
    // ngx_conf_full_name wants it.
    unsafe {
        let pool = (*cf).pool;
        let mut bytes = path.as_bytes().to_vec();
        bytes.push(0);
        let mut name = sys::ngx_str_t::from_bytes(pool, &bytes).ok_or(ConfError::Logged)?;
        name.len -= 1;
        if sys::ngx_conf_full_name((*cf).cycle, &raw mut name, 1) != super::sys::OK {
            return Err(ConfError::Logged);
        }
        Ok(name.to_string())
    }
}

/// Stores into an unset `Option`, or reports a duplicate.
pub fn set_once<T>(field: &mut Option<T>, value: T) -> Result {
    if field.is_some() {
        return Err(ConfError::Duplicate);
    }
    *field = Some(value);
    Ok(())
}

/// Text with variables, compiled once.
#[derive(Clone)]
pub struct ComplexValue(sys::ngx_http_complex_value_t);

impl ComplexValue {
    fn compile(cf: *mut sys::ngx_conf_t, text: &str) -> Result<Self> {
        // SAFETY: plain C structs, for which all-zero is the documented initial state.
        let (mut value, mut ccv) = unsafe {
            (
                core::mem::zeroed::<sys::ngx_http_complex_value_t>(),
                core::mem::zeroed::<sys::ngx_http_compile_complex_value_t>(),
            )
        };
        // SAFETY: `cf` is the parser state nginx passed to the setter; the text is copied into its pool,
        // where the compiled value points to it.
        unsafe {
            let mut text =
                sys::ngx_str_t::from_bytes((*cf).pool, text.as_bytes()).ok_or(ConfError::Logged)?;
            ccv.cf = cf;
            ccv.value = &raw mut text;
            ccv.complex_value = &raw mut value;
            if sys::ngx_http_compile_complex_value(&raw mut ccv) != super::sys::OK {
                return Err(ConfError::Logged);
            }
        }
        Ok(Self(value))
    }

    /// The text for this request. The bytes live in the request's pool. `None` when memory is short.
    pub fn eval<'r>(&self, r: &'r super::request::Request) -> Option<&'r [u8]> {
        let mut out = sys::ngx_str_t::empty();
        // SAFETY: `r` is a live request; the value was compiled by nginx and is only read.
        let rc =
            unsafe { sys::ngx_http_complex_value(r.as_ptr(), (&raw const self.0).cast_mut(), &raw mut out) };
        if rc != super::sys::OK {
            return None;
        }
        // SAFETY: on success nginx filled `out` with bytes in the request's or the configuration's pool,
        // both of which outlive the borrow of the request.
        Some(unsafe { core::mem::transmute::<&[u8], &'r [u8]>(out.as_bytes()) })
    }
}

/// Logs a configuration error with the place the parser is at.
pub fn complain(cf: *mut sys::ngx_conf_t, message: core::fmt::Arguments<'_>) {
    ngx::ngx_conf_log_error!(sys::NGX_LOG_EMERG, cf, "{}", message);
}

/// Logs a configuration error found after parsing, with the place of the directive at fault.
pub fn complain_at(cf: *mut sys::ngx_conf_t, place: &Place, message: core::fmt::Arguments<'_>) {
    // SAFETY: `cf` is the parser state of the running configuration phase; its log is alive.
    unsafe { super::log::write(super::log::Level::Emerg, (*cf).log, format_args!("{message}{place}")) }
}

/// Warns of something in the configuration that is as good as not there, with the place of the directive.
pub fn warn_at(cf: *mut sys::ngx_conf_t, place: &Place, message: core::fmt::Arguments<'_>) {
    // SAFETY: as in `complain_at`.
    unsafe { super::log::write(super::log::Level::Warn, (*cf).log, format_args!("{message}{place}")) }
}

extern "C" fn set(cf: *mut sys::ngx_conf_t, cmd: *mut sys::ngx_command_t, conf: *mut c_void) -> *mut c_char {
    entry!("a directive", c"has met an internal error".as_ptr().cast_mut(), {
        // SAFETY: rows of our table carry a `&'static Setter` in `post` (see `directive`), and nginx passes
        // the configuration that our create_*_conf made for the level the row names.
        let outcome = unsafe {
            Directive::read(cf).and_then(|directive| match &*(*cmd).post.cast::<Setter>() {
                Setter::Main(f) => f(&directive, &mut *conf.cast()),
                Setter::Server(f) => f(&directive, &mut *conf.cast()),
                Setter::Location(f) => f(&directive, &mut *conf.cast()),
                Setter::Block(f) => f(&directive, conf.cast()),
                Setter::Line(f) => f(&directive),
            })
        };
        match outcome {
            Ok(()) => CONF_OK,
            Err(ConfError::Logged) => CONF_ERROR,
            Err(error) => {
                // SAFETY: the row's name is a static string.
                let name = unsafe { (*cmd).name };
                complain(cf, format_args!("\"{name}\" directive {error}"));
                CONF_ERROR
            }
        }
    })
}
