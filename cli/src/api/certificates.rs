//! TLS for the operator's commands: which authorities are trusted, and our own certificate.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Certificate, ClientBuilder, Identity};
use typed_toml::files::read_bytes;

/// The files for TLS, as PEM.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Certificates {
    /// The certificates of the authorities to trust, instead of those of the system (PEM)
    #[arg(long, env = "REDELIVER_CA", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,

    /// Our own certificate, if the scheduler asks for one (PEM)
    #[arg(long, env = "REDELIVER_CERT", value_name = "FILE")]
    pub(super) cert: Option<PathBuf>,

    /// The key of --cert (PEM)
    #[arg(long, env = "REDELIVER_KEY", value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
}

impl Certificates {
    /// Returns these files, and those of `others` in place of missing ones. A certificate and its
    /// key are from the same place.
    pub(super) fn or(&self, others: &Self) -> Self {
        let (cert, key) = match (&self.cert, &self.key) {
            (None, None) => (&others.cert, &others.key),
            own => own,
        };
        Self {
            ca: self.ca.as_ref().or(others.ca.as_ref()).cloned(),
            cert: cert.clone(),
            key: key.clone(),
        }
    }

    /// Makes an HTTP client use these files.
    ///
    /// # Errors
    /// If a file cannot be read or does not contain what it should.
    pub(super) fn apply_to(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        if let Some(path) = &self.ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?)
                .ok()
                .filter(|authorities| !authorities.is_empty());
            let authorities = authorities
                .with_context(|| format!("{} has no certificate in PEM form", path.display()))?;
            builder = builder.tls_certs_only(authorities);
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let mut pem = read(cert)?;
                pem.push(b'\n');
                pem.extend(read(key)?);
                let identity = Identity::from_pem(&pem).with_context(|| {
                    let (cert, key) = (cert.display(), key.display());
                    format!("{cert} and {key} are not a certificate and its key in PEM form")
                })?;
                Ok(builder.identity(identity))
            }
            (None, None) => Ok(builder),
            (Some(_), None) => bail!("--cert needs --key, the file with the certificate's key"),
            (None, Some(_)) => bail!("--key needs --cert, the file with the key's certificate"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_bytes(path).map_err(|why| anyhow::anyhow!("{} {why}", path.display()))
}

/// Returns what to do about a failure of TLS. `None` if the cause is something else.
pub(super) fn advice(cause: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    Some(if has(&["UnknownIssuer"]) {
        "its certificate is not signed by a trusted authority: \
         give the authority's certificate with --ca"
    } else if has(&["NotValidForName"]) {
        "its certificate is for another name: use that name in the URL"
    } else if has(&["invalid peer certificate"]) {
        "its certificate is not valid: have it renewed"
    } else if has(&["CertificateRequired", "HandshakeFailure", "BadCertificate"]) {
        "it may ask for a certificate of ours: give one with --cert and --key"
    } else if has(&["InvalidContentType", "corrupt message"]) {
        "it does not speak TLS there: use http:// in the URL"
    } else {
        return None;
    })
}
