//! Directives that are seen here before their owners see them: what they say is noted, then the owner's own
//! setter does the work, with its own messages.
//!
//! nginx looks a directive up in module order, and the early module stands before the modules that proxy.

use core::ffi::{CStr, c_char, c_void};

use nginx_sys as sys;

use super::balance;
use super::cf::complain;
use super::entry::entry;
use super::sys::{CONF_ERROR, CONF_OK, KEEPALIVE_WORDS, module_by_name, slot};

/// What a location's early directives say.
#[derive(Default)]
pub struct LocConf {
    /// Whether the location proxies over TLS. `None`: not known (variables), or it does not proxy.
    pub secure: Option<bool>,
    /// `proxy_set_header` and `grpc_set_header`, as written.
    headers: [Vec<Header>; 2],
}

/// Name and value.
pub type Header = (String, String);

/// Whose headers are whose.
const SETTERS: [&CStr; 2] = [c"ngx_http_proxy_module", c"ngx_http_grpc_module"];

impl LocConf {
    /// As the core does: one header of its own, and a level inherits none.
    pub fn merge(&mut self, prev: &Self) {
        for (its, from) in self.headers.iter_mut().zip(&prev.headers) {
            if its.is_empty() {
                its.clone_from(from);
            }
        }
    }

    /// The headers that requests to an upstream are sent with by this module, where they are the same for each.
    pub fn headers_of(&self, module: &CStr) -> impl Iterator<Item = &Header> {
        let its = SETTERS.iter().position(|setter| *setter == module).map(|at| &self.headers[at]);
        its.into_iter().flatten().filter(|(name, value)| !name.contains('$') && !value.contains('$'))
    }
}

const HEADER: u32 =
    sys::NGX_HTTP_MAIN_CONF | sys::NGX_HTTP_SRV_CONF | sys::NGX_HTTP_LOC_CONF | sys::NGX_CONF_TAKE2;
const PASS: u32 = sys::NGX_HTTP_LOC_CONF | sys::NGX_HTTP_LIF_CONF | sys::NGX_CONF_TAKE1;

const UPSTREAM: u32 = sys::NGX_HTTP_UPS_CONF;
const RANDOM: u32 = sys::NGX_CONF_NOARGS | sys::NGX_CONF_TAKE12;

type Set = unsafe extern "C" fn(*mut sys::ngx_conf_t, *mut sys::ngx_command_t, *mut c_void) -> *mut c_char;

/// The rows of the early module.
pub static mut COMMANDS: [sys::ngx_command_t; 9] = [
    noted(c"proxy_pass", PASS | sys::NGX_HTTP_LMT_CONF, c"ngx_http_proxy_module", pass),
    noted(c"grpc_pass", PASS, c"ngx_http_grpc_module", pass),
    noted(c"proxy_set_header", HEADER, SETTERS[0], header),
    noted(c"grpc_set_header", HEADER, SETTERS[1], header),
    noted(c"server", UPSTREAM | sys::NGX_CONF_1MORE, c"ngx_http_upstream_module", server),
    noted(c"keepalive", UPSTREAM | KEEPALIVE_WORDS, c"ngx_http_upstream_keepalive_module", keepalive),
    noted(c"hash", UPSTREAM | sys::NGX_CONF_TAKE12, c"ngx_http_upstream_hash_module", hash),
    noted(c"random", UPSTREAM | RANDOM, c"ngx_http_upstream_random_module", random),
    sys::ngx_command_t::empty(),
];

/// A row for a directive of `owner`, whose name travels in `post`.
const fn noted(name: &'static CStr, kind: u32, owner: &'static CStr, set: Set) -> sys::ngx_command_t {
    sys::ngx_command_t {
        name: sys::ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() },
        type_: kind as usize,
        set: Some(set),
        conf: sys::NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: owner.as_ptr().cast_mut().cast(),
    }
}

/// The early configuration of a location.
///
/// # Safety
/// `ctx` must be a location's (or upstream's) context of the configuration being read.
pub unsafe fn of<'c>(ctx: *const sys::ngx_http_conf_ctx_t) -> Option<&'c LocConf> {
    // SAFETY: the caller vouches for `ctx`, which has a slot for each module, ours filled by create_loc_conf.
    unsafe { (*slot((*ctx).loc_conf, super::module::early_module())).cast::<LocConf>().as_ref() }
}

unsafe extern "C" fn pass(
    cf: *mut sys::ngx_conf_t,
    cmd: *mut sys::ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    entry!("a directive", CONF_ERROR, {
        // SAFETY: nginx passes the row that `noted` made, the parser state, and what create_loc_conf made.
        let (read, conf, words) = unsafe {
            let read = delegate(cf, &*cmd);
            (read, &mut *conf.cast::<LocConf>(), (*(*cf).args).as_slice::<sys::ngx_str_t>())
        };
        if read == CONF_OK
            && let Some(target) = words.get(1)
        {
            conf.secure = is_secure(target.as_bytes());
        }
        read
    })
}

unsafe extern "C" fn header(
    cf: *mut sys::ngx_conf_t,
    cmd: *mut sys::ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    entry!("a directive", CONF_ERROR, {
        // SAFETY: as in `pass`.
        let (read, conf, words, owner) = unsafe {
            let read = delegate(cf, &*cmd);
            let words = (*(*cf).args).as_slice::<sys::ngx_str_t>();
            (read, &mut *conf.cast::<LocConf>(), words, CStr::from_ptr((*cmd).post.cast()))
        };
        if let (true, [_, name, value], Some(at)) =
            (read == CONF_OK, words, SETTERS.iter().position(|setter| *setter == owner))
        {
            conf.headers[at].push((name.to_string(), value.to_string()));
        }
        read
    })
}

/// Handlers of lines inside an upstream, each of which does its part before, after or around the owner's.
macro_rules! beside {
    ($($name:ident: |$cf:ident, $owner:ident| $does:expr;)*) => {$(
        unsafe extern "C" fn $name(
            $cf: *mut sys::ngx_conf_t,
            cmd: *mut sys::ngx_command_t,
            _: *mut c_void,
        ) -> *mut c_char {
            entry!("a directive", CONF_ERROR, {
                // SAFETY: nginx passes the row that `noted` made and the parser state, inside an upstream.
                unsafe {
                    let $owner = || delegate($cf, &*cmd);
                    $does
                }
            })
        }
    )*};
}

beside! {
    server: |cf, owner| balance::conf::server(cf, owner);
    keepalive: |cf, owner| balance::inner::keepalive(cf, owner);
    random: |cf, owner| {
        balance::conf::random(cf);
        owner()
    };
    hash: |cf, owner| {
        balance::conf::hash(cf);
        owner()
    };
}

/// Whether a target names TLS; `None` if that is decided per request.
fn is_secure(target: &[u8]) -> Option<bool> {
    if target.starts_with(b"$") {
        return None;
    }
    let begins =
        |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    Some(begins(b"https://") || begins(b"grpcs://"))
}

/// Has the owner of the directive read it.
///
/// # Safety
/// `cf` must be the parser state at a line of this directive; `row` one of [`COMMANDS`].
unsafe fn delegate(cf: *mut sys::ngx_conf_t, row: &sys::ngx_command_t) -> *mut c_char {
    // SAFETY: the caller vouches for `cf` and `row`; a module's commands end with an empty name; `ctx` is that of
    // an http block, whose arrays have a slot for each http module at the row's own level.
    unsafe {
        let owner = CStr::from_ptr(row.post.cast());
        let Some(module) = module_by_name((*cf).cycle, owner) else {
            complain(cf, format_args!("unknown directive \"{}\"", row.name));
            return CONF_ERROR;
        };
        let mut command = (*module).commands;
        while (*command).name.len != 0 {
            if (*command).name == row.name
                && let Some(set) = (*command).set
            {
                let level = *(*cf).ctx.byte_add((*command).conf).cast::<*mut *mut c_void>();
                return set(cf, command, *slot(level, module));
            }
            command = command.add(1);
        }
        complain(
            cf,
            format_args!("\"{}\" is not among the directives of {}", row.name, owner.to_string_lossy()),
        );
    }
    CONF_ERROR
}

#[cfg(test)]
mod tests {
    use super::is_secure;

    #[test]
    fn schemes_are_told_apart() {
        assert_eq!(is_secure(b"https://api"), Some(true));
        assert_eq!(is_secure(b"HTTPS://api/$uri"), Some(true));
        assert_eq!(is_secure(b"grpcs://api"), Some(true));
        assert_eq!(is_secure(b"http://https"), Some(false));
        assert_eq!(is_secure(b"api"), Some(false));
        assert_eq!(is_secure(b"$scheme://api"), None);
    }
}
