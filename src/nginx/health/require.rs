//! `require $name …`: nginx's variables after a probe.
//!
//! A variable belongs to a request, and a probe has none of nginx's, so one is made up for the moment: of the check's
//! location, without a client, with an upstream that has answered what the probe was told. `$upstream_status`,
//! `$upstream_http_NAME` and what `map` makes of them have their values; what a client or the rewrite phase would
//! bring is empty, as in NGINX Plus. No handler runs on it, and nothing of it outlives the question.

use core::ptr::null_mut;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::cf::{ConfError, Result};
use super::super::sys::{header_ready, slot};
use crate::policy::health::{Verdict, require};
use crate::remote::probe::{Head, Outcome, Report};

/// A variable that must have a value, and its index in the configuration.
pub struct Required {
    name: String,
    index: usize,
}

impl Required {
    /// Makes sure that the variable is known when the configuration has been read: else nginx itself complains.
    pub fn new(cf: *mut sys::ngx_conf_t, name: &str) -> Result<Self> {
        // SAFETY: `cf` is the parser state inside an http block; the name is copied into its pool.
        let index = unsafe {
            let mut text =
                sys::ngx_str_t::from_bytes((*cf).pool, name.as_bytes()).ok_or(ConfError::Logged)?;
            sys::ngx_http_get_variable_index(cf, &raw mut text)
        };
        let index = usize::try_from(index).map_err(|_| ConfError::Logged)?;
        Ok(Self { name: name.to_owned(), index })
    }
}

/// What a check requires, and where its requests would be made.
pub struct Rules {
    required: Rc<[Required]>,
    ctx: *const sys::ngx_http_conf_ctx_t,
}

impl Rules {
    /// None if there is nothing to require.
    ///
    /// # Safety
    /// `ctx` must be the context of a server or location of the configuration being finished, and live as long.
    pub unsafe fn new(required: Rc<[Required]>, ctx: *const sys::ngx_http_conf_ctx_t) -> Option<Self> {
        (!required.is_empty()).then_some(Self { required, ctx })
    }

    /// The outcome of a probe of `server`, these variables considered.
    pub fn judge(&self, server: &str, report: Report) -> Outcome {
        let Some(head) = &report.head else { return report.outcome };
        // SAFETY: `new`'s caller vouches for the context; this is the event loop of the worker that serves it.
        let scene = unsafe { Scene::new(self.ctx) };
        let shown = scene.and_then(|scene| scene.answer(server, head, &report).then_some(scene));
        let Some(scene) = shown else {
            return Outcome::Unknown("no memory to look at variables".to_owned());
        };
        let unmet = self.required.iter().find_map(|one| require::unmet(&one.name, scene.value(one.index)));
        unmet.map_or(report.outcome, |reason| Verdict::Fail(reason).into())
    }
}

/// A request that nobody made.
struct Scene {
    request: *mut sys::ngx_http_request_t,
    pool: Pool,
}

/// A pool that ends with its owner, and with it what its cleanups hold.
struct Pool(*mut sys::ngx_pool_t);

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: made in `Scene::new`, and nobody keeps anything of it.
        unsafe { sys::ngx_destroy_pool(self.0) }
    }
}

impl Pool {
    /// Zeroed memory for `count` of T, for which all zero must be a value.
    fn zeroed<T>(&self, count: usize) -> Option<*mut T> {
        // SAFETY: a live pool.
        let memory = unsafe { sys::ngx_pcalloc(self.0, size_of::<T>() * count.max(1)) };
        (!memory.is_null()).then_some(memory.cast())
    }

    fn text(&self, bytes: &[u8]) -> Option<sys::ngx_str_t> {
        // SAFETY: a live pool.
        unsafe { sys::ngx_str_t::from_bytes(self.0, bytes) }
    }
}

impl Scene {
    /// Everything is zero, as in a request the core has just begun to read, but for what variables look at without
    /// asking whether it is there.
    ///
    /// # Safety
    /// `ctx` must be the context of a server or location of this process's cycle.
    unsafe fn new(ctx: *const sys::ngx_http_conf_ctx_t) -> Option<Self> {
        // SAFETY: the cycle's log and the arrays of `ctx` live as long as the cycle; what is allocated lives in the
        // pool. These structs of C have all zero for a value.
        unsafe {
            let pool = sys::ngx_create_pool(4_096, (*sys::ngx_cycle).log);
            let pool = (!pool.is_null()).then_some(Pool(pool))?;
            let request = pool.zeroed::<sys::ngx_http_request_t>(1)?;
            let main = (*slot((*ctx).main_conf, &raw const sys::ngx_http_core_module))
                .cast::<sys::ngx_http_core_main_conf_t>();
            let r = &mut *request;
            r.signature = sys::NGX_HTTP_MODULE;
            r.pool = pool.0;
            r.main = request;
            r.set_count(1);
            (r.main_conf, r.srv_conf, r.loc_conf) = ((*ctx).main_conf, (*ctx).srv_conf, (*ctx).loc_conf);
            r.ctx = pool.zeroed(sys::ngx_http_max_module)?;
            r.variables = pool.zeroed((*main).variables.nelts)?;
            (r.connection, r.http_connection) = connection(&pool, ctx, request)?;
            r.method = sys::NGX_HTTP_GET as usize;
            r.http_version = sys::NGX_HTTP_VERSION_11 as usize;
            r.uri = pool.text(b"/")?;
            (r.unparsed_uri, r.method_name) = (r.uri, pool.text(b"GET")?);
            let now = sys::ngx_timeofday();
            (r.start_sec, r.start_msec) = (now.sec, now.msec);
            (r.headers_in.content_length_n, r.headers_in.keep_alive_n) = (-1, -1);
            (r.headers_out.content_length_n, r.headers_out.last_modified_time) = (-1, -1);
            Some(Self { request, pool })
        }
    }

    /// Has the upstream have answered. False when memory is short.
    fn answer(&self, server: &str, head: &Head, report: &Report) -> bool {
        self.state(server, head, report).and_then(|()| self.upstream(head)).is_some()
    }

    /// What the core notes of an attempt.
    fn state(&self, server: &str, head: &Head, report: &Report) -> Option<()> {
        let peer = self.pool.zeroed::<sys::ngx_str_t>(1)?;
        // SAFETY: fresh memory of the scene's pool; the array's elements are of the core's type.
        unsafe {
            *peer = self.pool.text(server.as_bytes())?;
            let states = sys::ngx_array_create(self.pool.0, 1, size_of::<sys::ngx_http_upstream_state_t>());
            let state = (!states.is_null()).then(|| sys::ngx_array_push(states))?;
            let state = (!state.is_null()).then_some(state.cast::<sys::ngx_http_upstream_state_t>())?;
            state.write_bytes(0, 1);
            (*state).status = head.status.into();
            let elapsed = usize::try_from(report.elapsed.as_millis()).unwrap_or(usize::MAX);
            // The probe does not tell these two apart from the whole; "never" prints as "-".
            ((*state).connect_time, (*state).header_time) = (usize::MAX, usize::MAX);
            (*state).response_time = elapsed;
            (*state).peer = peer;
            (*self.request).upstream_states = states;
        }
        Some(())
    }

    /// The headers it sent.
    fn upstream(&self, head: &Head) -> Option<()> {
        let upstream = self.pool.zeroed::<sys::ngx_http_upstream_t>(1)?;
        let elements = self.pool.zeroed::<sys::ngx_table_elt_t>(head.headers.len())?;
        for (at, (name, value)) in head.headers.iter().enumerate() {
            // SAFETY: `elements` has room for each of them.
            unsafe {
                let element = elements.add(at);
                ((*element).key, (*element).value) =
                    (self.pool.text(name.as_bytes())?, self.pool.text(value)?);
                header_ready(element);
            }
        }
        // SAFETY: fresh memory of the scene's pool. A list of one part, which is full.
        unsafe {
            let list = &raw mut (*upstream).headers_in.headers;
            (*list).part.elts = elements.cast();
            (*list).part.nelts = head.headers.len();
            (*list).part.next = null_mut();
            (*list).last = &raw mut (*list).part;
            ((*list).size, (*list).nalloc) = (size_of::<sys::ngx_table_elt_t>(), head.headers.len());
            (*list).pool = self.pool.0;
            (*upstream).headers_in.status_n = head.status.into();
            (*upstream).conf = self.pool.zeroed(1)?;
            (*self.request).upstream = upstream;
        }
        Some(())
    }

    /// The value of a variable; empty if it has none.
    fn value(&self, index: usize) -> &[u8] {
        // SAFETY: the scene's request; the index is one of its configuration's. The value's bytes live in the pool or
        // in the configuration.
        unsafe {
            let value = sys::ngx_http_get_indexed_variable(self.request, index);
            match value.as_ref() {
                Some(value) if value.not_found() == 0 && value.len() > 0 => {
                    core::slice::from_raw_parts(value.data, value.len() as usize)
                }
                _ => b"",
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // SAFETY: what variables have asked to be called at the end of the request; the pool still lives.
        unsafe {
            let mut cleanup = (*self.request).cleanup;
            while let Some(one) = cleanup.as_ref() {
                if let Some(handler) = one.handler {
                    handler(one.data);
                }
                cleanup = one.next;
            }
        }
    }
}

/// A connection to nobody: no descriptor, an address of the kind that has no number.
///
/// # Safety
/// `ctx` must be as `Scene::new` has it.
unsafe fn connection(
    pool: &Pool,
    ctx: *const sys::ngx_http_conf_ctx_t,
    request: *mut sys::ngx_http_request_t,
) -> Option<(*mut sys::ngx_connection_t, *mut sys::ngx_http_connection_t)> {
    // SAFETY: fresh memory of a live pool, of structs of C that have all zero for a value.
    unsafe {
        let (made, http) =
            (pool.zeroed::<sys::ngx_connection_t>(1)?, pool.zeroed::<sys::ngx_http_connection_t>(1)?);
        let address = pool.zeroed::<libc::sockaddr_un>(1)?;
        (*address).sun_family = libc::AF_UNIX as libc::sa_family_t;
        let c = &mut *made;
        (c.data, c.pool, c.log, c.fd) = (request.cast(), pool.0, (*sys::ngx_cycle).log, -1);
        (c.read, c.write) = (pool.zeroed(1)?, pool.zeroed(1)?);
        for event in [c.read, c.write] {
            ((*event).data, (*event).log) = (made.cast(), c.log);
        }
        (c.sockaddr, c.local_sockaddr) = (address.cast(), address.cast());
        let length = size_of::<libc::sa_family_t>() as sys::socklen_t;
        (c.socklen, c.local_socklen) = (length, length);
        c.addr_text = pool.text(b"unix:")?;
        (*http).conf_ctx = ctx.cast_mut();
        Some((made, http))
    }
}
