//! What the client library takes without a word and no connection will ever accept: files that hold no certificate, and
//! a key that belongs to another one.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::settings::Tls;

/// Looks at the PEM files of a `redis` block.
///
/// # Errors
/// What is wrong with the first bad one, in one line.
pub(super) fn check(tls: &Tls) -> Result<(), String> {
    if let Some(pem) = &tls.ca {
        chain("tls_ca", pem)?;
    }
    let (Some(pem), Some(key)) = (&tls.certificate, &tls.key) else { return Ok(()) };
    let chain = chain("tls_certificate", pem)?;
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())
        .map_err(|_| "no private key in \"tls_certificate_key\"".to_owned())?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the key in \"tls_certificate_key\" is not that of \"tls_certificate\"".to_owned())
        }
        Err(error) => Err(format!("\"tls_certificate\" and \"tls_certificate_key\": {error}")),
    }
}

/// The certificates in the file of one line; at least one.
fn chain(line: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!("no certificate in \"{line}\"")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("\"{line}\": {error}")),
    }
}
