//! Registration of all variables: one getter in C's hands, a safe function per name behind it.

use nginx_sys as sys;

use super::entry::entry;
use super::request::{Request, set_variable};
use super::sys::{ERROR, OK};
use super::{ban, breaker, limit, times};

/// One variable: its name, and its text for a request; `None` where it has none.
pub struct Variable {
    pub name: &'static str,
    pub text: fn(&Request) -> Option<String>,
}

/// All variables of the module; a variable's number is its position.
fn all() -> impl Iterator<Item = &'static Variable> {
    limit::variables::VARIABLES
        .iter()
        .chain(&ban::variables::VARIABLES)
        .chain(&breaker::variables::VARIABLES)
        .chain(&times::VARIABLES)
}

/// Makes the variables known. Called while a configuration begins to be read.
///
/// # Safety
/// `cf` must be the parser state nginx passes to preconfiguration.
pub unsafe fn register(cf: *mut sys::ngx_conf_t) -> bool {
    // SAFETY: the caller vouches for `cf`.
    all().enumerate().all(|(number, variable)| unsafe { add(cf, variable.name, number) })
}

unsafe fn add(cf: *mut sys::ngx_conf_t, name: &'static str, number: usize) -> bool {
    let mut name = sys::ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
    // SAFETY: the caller vouches for `cf`; nginx copies the name; the variable it returns is ours to fill.
    unsafe {
        let variable = sys::ngx_http_add_variable(cf, &raw mut name, sys::NGX_HTTP_VAR_NOCACHEABLE as usize);
        if variable.is_null() {
            return false;
        }
        (*variable).get_handler = Some(get);
        (*variable).data = number;
    }
    true
}

unsafe extern "C" fn get(
    r: *mut sys::ngx_http_request_t,
    value: *mut sys::ngx_http_variable_value_t,
    number: usize,
) -> sys::ngx_int_t {
    entry!("a variable", ERROR, {
        // SAFETY: nginx passes a live request and the value to fill.
        let (request, value) = unsafe { (Request::from_ptr(r), &mut *value) };
        let text = all().nth(number).and_then(|variable| (variable.text)(request));
        set_variable(value, text.and_then(|text| request.copy(text.as_bytes())));
        OK
    })
}
