//! Content at URLs, in the object stores and web servers that the configuration lists and nowhere
//! else. The stores' credentials come from the environment variables that each store documents.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{Error, GetResult, ObjectStore, ObjectStoreExt, ObjectStoreScheme};
use system::whose_fault::{own_error, system_error};
use url::{Position, Url};

use self::connector::DirectConnector;
use super::error::ContentError;

mod connector;

/// The prefixes of the environment variables that configure a store: AWS_ACCESS_KEY_ID,
/// GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, …
const VARIABLE_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The stores that content may be read from.
#[derive(Default)]
pub(super) struct Stores(Vec<StoreRoot>);

struct StoreRoot {
    /// Scheme, host and port, or bucket.
    origin: String,
    /// The path that all object names in this store begin with.
    prefix: Path,
    store: Arc<dyn ObjectStore>,
}

/// An object that exists.
pub(super) struct Found {
    /// Its size in bytes.
    pub(super) size: usize,
    object: GetResult,
}

impl Stores {
    /// Opens the stores at these URLs, configured by these variables. It does not connect yet.
    pub(super) fn open(urls: &[Url], variables: &[(String, String)]) -> Result<Self, String> {
        system::tls::prepare();
        urls.iter()
            .map(|url| open(url, variables))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Requests one object. It is an error if the object is larger than `max` bytes.
    pub(super) async fn find(&self, url: &str, max: usize) -> Result<Found, ContentError> {
        let outside = ContentError::Missing("the content's URL is outside content.stores");
        let Some((origin, path)) = Url::parse(url).ok().and_then(|url| split(&url).ok()) else {
            return Err(outside);
        };
        let root = self
            .0
            .iter()
            .find(|root| root.origin == origin && path.prefix_matches(&root.prefix));
        let Some(StoreRoot { store, .. }) = root else {
            return Err(outside);
        };
        let object = store.get(&path).await.map_err(|err| classify_error(&err))?;
        match usize::try_from(object.meta.size) {
            Ok(size) if size <= max => Ok(Found { size, object }),
            _ => Err(ContentError::Missing(
                "the content is larger than content.max",
            )),
        }
    }
}

impl Found {
    /// Reads the object. It is an error if the store sends more than the size that it announced.
    pub(super) async fn read(self) -> Result<Vec<u8>, ContentError> {
        let mut content = Vec::with_capacity(self.size);
        let mut pieces = self.object.into_stream();
        while let Some(piece) = pieces
            .try_next()
            .await
            .map_err(|err| classify_error(&err))?
        {
            if content.len() + piece.len() > self.size {
                return Err(ContentError::unread(
                    "the store sent more bytes of the object than it announced",
                ));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }
}

fn open(url: &Url, variables: &[(String, String)]) -> Result<StoreRoot, String> {
    let named = |err: String| format!("content.stores: {url}: {err}");
    let (origin, prefix) = split(url).map_err(named)?;
    let of_stores = variables.iter().filter(|(name, _)| {
        VARIABLE_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
    });
    let mut options: Vec<(String, String)> = of_stores
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    if url.scheme() == "http" {
        options.push(("allow_http".to_owned(), "true".to_owned()));
    }
    let store = connect(url, &options).map_err(|err| named(err.to_string()))?;
    Ok(StoreRoot {
        origin,
        prefix,
        store,
    })
}

/// Builds a store with this URL, with those of the options that this type of store knows, and with
/// our connector.
macro_rules! build {
    ($builder:ty, $url:expr, $options:expr) => {{
        let known = $options
            .iter()
            .filter_map(|(key, value)| Some((key.parse().ok()?, value)));
        let builder = known.fold(<$builder>::new().with_url($url), |builder, (key, value)| {
            builder.with_config(key, value)
        });
        Arc::new(builder.with_http_connector(DirectConnector).build()?) as Arc<dyn ObjectStore>
    }};
}

fn connect(url: &Url, options: &[(String, String)]) -> object_store::Result<Arc<dyn ObjectStore>> {
    Ok(match ObjectStoreScheme::parse(url)?.0 {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder, url.as_str(), options),
        ObjectStoreScheme::GoogleCloudStorage => {
            build!(GoogleCloudStorageBuilder, url.as_str(), options)
        }
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, url.as_str(), options),
        ObjectStoreScheme::Http => build!(HttpBuilder, &url[..Position::BeforePath], options),
        other => {
            let source = format!("content cannot be read from a store of type {other:?}").into();
            return Err(Error::Generic {
                store: "content",
                source,
            });
        }
    })
}

/// Returns the origin of the store that a URL names, and the decoded name of the object in it.
/// Because the name is decoded, an encoded `..` cannot lead out of a store's path.
fn split(url: &Url) -> Result<(String, Path), String> {
    let (_, path) = ObjectStoreScheme::parse(url).map_err(|err| err.to_string())?;
    Ok((url[..Position::BeforePath].to_owned(), path))
}

/// Returns the error for a failed request. An object that does not exist is missing for good. All
/// other failures may be temporary, even wrong credentials, which an operator can correct.
fn classify_error(err: &Error) -> ContentError {
    match err {
        Error::NotFound { .. } => ContentError::Missing("the content's object does not exist"),
        Error::InvalidPath { .. } => ContentError::Missing("the content's URL names no object"),
        other => match system_error(other).and_then(own_error) {
            Some(cause) => ContentError::caused_by(cause, other),
            None => ContentError::unread(&other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn stores() -> Stores {
        let store = Arc::new(InMemory::new());
        store
            .put(&Path::from("mail/a.eml"), "Subject: x\r\n".into())
            .await
            .unwrap();
        store
            .put(&Path::from("secret/b.eml"), "no".into())
            .await
            .unwrap();
        Stores(vec![StoreRoot {
            origin: "s3://bucket".to_owned(),
            prefix: Path::from("mail"),
            store,
        }])
    }

    #[tokio::test]
    async fn objects_are_read_under_the_stores_and_nowhere_else() {
        let stores = stores().await;
        let found = stores.find("s3://bucket/mail/a.eml", 100).await.unwrap();
        assert_eq!(found.read().await.unwrap(), b"Subject: x\r\n");
        for elsewhere in [
            "s3://bucket/secret/b.eml",
            "s3://bucket/mail/../secret/b.eml",
            "s3://bucket/mail/%2e%2e/secret/b.eml",
            "s3://bucket/mail%2F..%2Fsecret%2Fb.eml",
            "s3://bucket/mailbox",
            "s3://other/mail/a.eml",
            "gs://bucket/mail/a.eml",
            "s3://bucket/mail/nothing.eml",
            "no url",
        ] {
            assert!(
                matches!(
                    stores.find(elsewhere, 100).await,
                    Err(ContentError::Missing(_))
                ),
                "{elsewhere}"
            );
        }
        assert!(
            matches!(
                stores.find("s3://bucket/mail/a.eml", 11).await,
                Err(ContentError::Missing(_))
            ),
            "an object that is too large"
        );
    }

    #[test]
    fn every_kind_of_store_opens() {
        for url in [
            "s3://bucket/mail",
            "gs://bucket",
            "https://cdn.example.com/mail",
            "http://127.0.0.1:1/",
        ] {
            assert!(
                Stores::open(&[Url::parse(url).unwrap()], &[]).is_ok(),
                "{url}"
            );
        }
    }
}
