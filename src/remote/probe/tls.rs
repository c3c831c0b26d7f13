//! TLS to the servers of one check.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What the configuration says about TLS. Certificates and keys are PEM.
#[derive(Debug, Clone, Copy)]
pub struct TlsSettings<'a> {
    /// The server's name, which is verified and sent. A port behind it is cut off, as nginx does.
    pub name: &'a str,
    /// Whether the name is sent to the server. An address never is.
    pub sni: bool,
    /// The authorities, or certificates of servers themselves, that are trusted. Without them the server's
    /// certificate is not verified.
    pub trusted: Option<&'a [u8]>,
    /// The certificate to show to servers, with those between it and its authority, and its key.
    pub identity: Option<(&'a [u8], &'a [u8])>,
}

/// TLS settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("invalid server name \"{0}\"")]
    Name(String),
    #[error("no usable certificate among the trusted ones")]
    NothingTrusted,
    #[error("invalid certificate: {0}")]
    Certificate(String),
    #[error("invalid certificate key: {0}")]
    Key(String),
    #[error("cannot use TLS: {0}")]
    Refused(String),
}

/// TLS as one check speaks it: everything parsed, shared by all its probes.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// `offered` are the protocols that may be spoken inside (ALPN), in order.
    pub fn new(settings: &TlsSettings<'_>, offered: &[&[u8]]) -> Result<Self, TlsError> {
        let refused = |error: Error| TlsError::Refused(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match settings.trusted {
            Some(pem) => Arc::new(Trusting::new(pem, &provider)?),
            None => Arc::new(Anyone(provider.clone())),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match settings.identity {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError::Key(e.to_string()))?;
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(refused)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        config.enable_sni = settings.sni;
        // Each probe proves the whole of the handshake, and no ticket of one server is shown to another.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), name: name(settings)? })
    }

    /// The handshake.
    pub async fn connect<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

/// The name in the library's form.
fn name(settings: &TlsSettings<'_>) -> Result<ServerName<'static>, TlsError> {
    let bare = without_port(settings.name);
    match ServerName::try_from(bare.to_owned()) {
        Ok(name) => Ok(name),
        // Nobody looks at it: any will do.
        Err(_) if !settings.sni && settings.trusted.is_none() => {
            Ok(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
        }
        Err(_) => Err(TlsError::Name(settings.name.to_owned())),
    }
}

/// `host:80`, `[::1]:80` and `[::1]` without port and brackets.
fn without_port(name: &str) -> &str {
    if let Some((address, _)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match name.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => name,
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))
}

/// Accepts what descends from a trusted certificate, or is one.
#[derive(Debug)]
struct Trusting {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Trusting {
    fn new(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let trusted = certificates(pem)?;
        let mut roots = RootCertStore::empty();
        // A bundle may hold old ones that the library cannot read; the others count.
        roots.add_parsable_certificates(trusted.iter().cloned());
        if roots.is_empty() {
            return Err(TlsError::NothingTrusted);
        }
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let chains = chains.map_err(|error| TlsError::Refused(error.to_string()))?;
        Ok(Self { chains, trusted })
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // A certificate signed by itself is usually its own authority too, which OpenSSL lets pass and the
            // library does not; it has looked at the dates by then, but not at the name.
            Err(error)
                if is_own_authority(&error) && self.trusted.iter().any(|known| known == end_entity) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether what is wrong with a certificate is that it may also sign others. The library has no name of its
/// own for that, only words, to which a test holds it.
pub(super) fn is_own_authority(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == "CaUsedAsEndEntity")
}

/// Accepts every certificate, as nginx does without `proxy_ssl_verify`: even one that cannot be read.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
