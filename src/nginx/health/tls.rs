//! TLS of one check: what it says itself, and for the rest what its location says to the module that proxies.
//!
//! That module's configuration is private to it, but for its table of directives: a row tells where its value is
//! kept, and by its setter of which type that is. Read after the whole configuration has been merged, it gives
//! what the location has, inherited or its own, in every nginx version.

use core::ffi::c_void;

use nginx_sys as sys;

use super::super::cf::{Directive, Param, Result, full_path};
use super::conf::Outcome;
use crate::remote::probe::TlsSettings;

/// The parameters of a check that are about TLS.
#[derive(Default)]
pub struct Parameters {
    /// `scheme`; where it is not given, the location's.
    secure: Option<bool>,
    sni: Option<String>,
    verify: Option<bool>,
    ca: Option<String>,
}

impl Parameters {
    /// Takes a parameter. False if it is none of these.
    pub fn take(&mut self, directive: &Directive, param: &Param<'_>) -> Result<bool> {
        match param.name {
            "scheme" => {
                self.secure = Some(match param.value()? {
                    "http" => false,
                    "https" => true,
                    _ => return Err(param.invalid("\"http\" or \"https\"")),
                });
            }
            "sni" => self.sni = Some(param.value()?.to_owned()),
            "verify" => self.verify = Some(param.switch()?),
            "ca" => self.ca = Some(directive.full_path(param.value()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What of this makes another question, beside whether there is TLS at all.
    pub fn identity(&self) -> String {
        let Self { sni, verify, ca, .. } = self;
        format!("{sni:?}\0{verify:?}\0{ca:?}")
    }

    /// What to do, in a check of `group`. `None`: no TLS.
    pub fn settle(
        &self,
        cf: *mut sys::ngx_conf_t,
        group: &str,
        location: Option<&Location>,
    ) -> Outcome<Option<Settings>> {
        if !self.secure.or(location.map(|location| location.secure)).unwrap_or(false) {
            let given =
                [("sni", self.sni.is_some()), ("verify", self.verify.is_some()), ("ca", self.ca.is_some())];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(format!("has \"{name}\" without \"scheme=https\"")),
                None => Ok(None),
            };
        }
        let location = location.map(|location| location.settings(cf, group)).transpose()?.unwrap_or_default();
        let verify = self.verify.unwrap_or(location.verify);
        let (name, sni) = match &self.sni {
            Some(name) => (name.clone(), true),
            None => (location.name.unwrap_or_else(|| group.to_owned()), location.sni),
        };
        let trusted = match self.ca.as_ref().or(location.trusted.as_ref()) {
            Some(path) if verify => Some(read(path)?),
            None if verify => return Err("has \"verify=on\" without \"ca\"".to_owned()),
            _ if self.ca.is_some() => return Err("has \"ca\" without \"verify=on\"".to_owned()),
            _ => None,
        };
        Ok(Some(Settings { name, sni, trusted, identity: location.identity }))
    }
}

/// TLS as it has been settled. Files have been read, while nginx may still be root.
pub struct Settings {
    name: String,
    sni: bool,
    trusted: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Settings {
    pub fn as_tls(&self) -> TlsSettings<'_> {
        TlsSettings {
            name: &self.name,
            sni: self.sni,
            trusted: self.trusted.as_deref(),
            identity: self.identity.as_ref().map(|(chain, key)| (&**chain, &**key)),
        }
    }
}

/// The location of a check, as the module that proxies there sees it.
pub struct Location {
    module: *const sys::ngx_module_t,
    conf: *const c_void,
    /// What the names of the module's directives about TLS begin with.
    prefix: &'static str,
    /// Whether it proxies over TLS.
    pub secure: bool,
}

/// What a location says.
#[derive(Default)]
struct Said {
    name: Option<String>,
    sni: bool,
    verify: bool,
    trusted: Option<String>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Location {
    /// # Safety
    /// `module` must be a loaded HTTP module and `conf` its merged configuration of a location, both of the cycle
    /// whose configuration is being finished.
    pub unsafe fn new(module: *const sys::ngx_module_t, conf: *const c_void, secure: bool) -> Self {
        // SAFETY: the caller vouches for the module, whose name is a static C string.
        let name = unsafe { core::ffi::CStr::from_ptr((*module).name) };
        let prefix = match name.to_bytes() {
            b"ngx_http_grpc_module" => "grpc_ssl_",
            b"ngx_http_uwsgi_module" => "uwsgi_ssl_",
            _ => "proxy_ssl_",
        };
        Self { module, conf, prefix, secure }
    }

    fn settings(&self, cf: *mut sys::ngx_conf_t, group: &str) -> Outcome<Said> {
        let path = |path: String| full_path(cf, &path).map_err(|error| error.to_string());
        let trusted = self.text("trusted_certificate")?.map(path).transpose()?;
        let file = |name| self.complex(name)?.map(|text| load(cf, text)).transpose();
        Ok(Said {
            // The one variable that has a value without a request.
            name: match self.raw("name")? {
                Some((text, _)) if text == "$proxy_host" => Some(group.to_owned()),
                _ => self.complex("name")?,
            },
            sni: self.flag("server_name")?,
            verify: self.flag("verify")?,
            trusted,
            identity: file("certificate")?.zip(file("certificate_key")?),
        })
    }

    fn flag(&self, name: &str) -> Outcome<bool> {
        let value = self.field::<sys::ngx_flag_t>(name, &[sys::ngx_conf_set_flag_slot])?;
        Ok(value.copied() == Some(1))
    }

    fn text(&self, name: &str) -> Outcome<Option<String>> {
        let value = self.field::<sys::ngx_str_t>(name, &[sys::ngx_conf_set_str_slot])?;
        Ok(value.filter(|text| text.len > 0).map(ToString::to_string))
    }

    /// Text that must not need a request.
    fn complex(&self, name: &str) -> Outcome<Option<String>> {
        match self.raw(name)? {
            Some((_, true)) => {
                let prefix = self.prefix;
                Err(format!("cannot take \"{prefix}{name}\" from its location: a check has no variables"))
            }
            found => Ok(found.map(|(text, _)| text).filter(|text| !text.is_empty())),
        }
    }

    /// As typed, and whether there are variables in it.
    fn raw(&self, name: &str) -> Outcome<Option<(String, bool)>> {
        let setters: [Slot; 2] =
            [sys::ngx_http_set_complex_value_slot, sys::ngx_http_set_complex_value_zero_slot];
        let value = self.field::<*const sys::ngx_http_complex_value_t>(name, &setters)?;
        let value = value.copied().filter(|value| !value.is_null() && value.addr() != usize::MAX);
        // SAFETY: a slot of these setters holds null, "unset", or a value in the configuration's pool.
        Ok(value.map(|value| unsafe { ((*value).value.to_string(), !(*value).lengths.is_null()) }))
    }

    /// Where the value of a directive is kept. `None`: the module has no such directive.
    fn field<T>(&self, name: &str, setters: &[Slot]) -> Outcome<Option<&T>> {
        let full = format!("{}{name}", self.prefix);
        // SAFETY: `new`'s caller vouches for the module, whose commands end with an empty name, and for its
        // configuration, in which a row of one of these setters has a T at the row's offset.
        unsafe {
            let mut row = (*self.module).commands;
            while !row.is_null() && (*row).name.len != 0 {
                if (*row).name.as_bytes() == full.as_bytes() {
                    let known = |set: Slot| setters.iter().any(|known| core::ptr::fn_addr_eq(*known, set));
                    return match (*row).set {
                        Some(set) if known(set) => Ok(Some(&*self.conf.byte_add((*row).offset).cast())),
                        _ => Err(format!("cannot read \"{full}\" of its location")),
                    };
                }
                row = row.add(1);
            }
        }
        Ok(None)
    }
}

/// A setter of nginx's that writes to the place its row names.
type Slot = unsafe extern "C" fn(
    *mut sys::ngx_conf_t,
    *mut sys::ngx_command_t,
    *mut c_void,
) -> *mut core::ffi::c_char;

/// A file, or what stands in its place.
fn load(cf: *mut sys::ngx_conf_t, text: String) -> Outcome<Vec<u8>> {
    match text.strip_prefix("data:") {
        Some(data) => Ok(data.as_bytes().to_vec()),
        None => read(&full_path(cf, &text).map_err(|error| error.to_string())?),
    }
}

fn read(path: &str) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|error| format!("cannot read \"{path}\": {error}"))
}
