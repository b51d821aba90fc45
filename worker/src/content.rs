//! The content of messages: reads it from the platform's storage, caches it for messages with the
//! same content, and converts it to the format for transmission.
//!
//! Content is always read whole, because the jobs of a campaign share one copy, and because all
//! lines must be checked before a connection is opened. One memory limit covers all content
//! together.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::job::ContentRef;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use telemetry::metrics::{ContentRead, Metrics};
use tokio::time::{sleep, timeout};

pub mod error;
mod file;
mod memory_budget;
mod object;
mod wire;

use error::ContentError;
use memory_budget::MemoryBudget;
use object::Stores;

/// How often a reader that waits for memory has the cache evict what exceeds the cache's limits.
const CACHE_CLEANUP_PAUSE: Duration = Duration::from_millis(50);

/// Reads content and caches it. Clones share the cache.
#[derive(Clone)]
pub struct Contents {
    roots: Arc<[PathBuf]>,
    stores: Arc<Stores>,
    cache: Cache<String, CachedContent>,
    budget: Arc<MemoryBudget>,
    /// The maximum size of one content, in bytes.
    max: usize,
    time_limit: Duration,
    metrics: Metrics,
}

impl Contents {
    /// Returns a reader of inline content and of content in these folders.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        let settings = config::content::Content {
            roots,
            ..config::model::Config::embedded().content
        };
        Self::with_stores(&settings, Stores::default())
    }

    /// Returns a reader of content in all places that the configuration allows.
    ///
    /// # Errors
    /// If a configured store cannot be used.
    pub fn from_config(settings: &config::content::Content) -> Result<Self, String> {
        // Variables that are not valid UTF-8 are not for the stores, and are skipped.
        let variables = std::env::vars_os();
        let texts = variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_variables(settings, &texts.collect::<Vec<_>>())
    }

    /// Like [`from_config`](Self::from_config), with these variables instead of the environment's.
    ///
    /// # Errors
    /// If a configured store cannot be used.
    pub fn from_variables(
        settings: &config::content::Content,
        variables: &[(String, String)],
    ) -> Result<Self, String> {
        Ok(Self::with_stores(
            settings,
            Stores::open(&settings.stores, variables)?,
        ))
    }

    fn with_stores(settings: &config::content::Content, stores: Stores) -> Self {
        let cache = Cache::builder()
            .weigher(|key: &String, entry: &CachedContent| {
                (key.len() + entry.size).try_into().unwrap_or(u32::MAX)
            })
            .eviction_listener(|_, entry, _| entry.release())
            // With capacity 0 the cache would not call the listener, and entries that it does not
            // keep would hold their memory for longer.
            .max_capacity(settings.cache.max(1) as u64)
            // The content of the current campaign stays, however often older content was used.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(settings.cache_for)
            .build();
        let roots = settings.roots.clone().into();
        let budget = Arc::new(MemoryBudget::new(settings.memory));
        Self {
            roots,
            stores: Arc::new(stores),
            cache,
            budget,
            max: settings.max,
            time_limit: settings.timeout,
            metrics: Metrics::default(),
        }
    }

    /// Returns the same reader, which counts what it reads in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Returns the content with CRLF line ends (RFC 5321, section 2.3.8). Content with a line too
    /// long for mail is an error. Several requests for the same content at once cause one fetch. If
    /// there is no memory for it, the request waits; `content.timeout` limits waiting and reading
    /// together.
    pub async fn read(&self, content: &ContentRef) -> Result<Bytes, ContentError> {
        let late = || {
            ContentError::unread("it could not be read in time, or no memory became free for it")
        };
        let read = timeout(self.time_limit, self.read_untimed(content))
            .await
            .unwrap_or_else(|_| Err(late()));
        if read.is_err() {
            self.metrics.content_read(ContentRead::Failed);
        }
        read
    }

    async fn read_untimed(&self, content: &ContentRef) -> Result<Bytes, ContentError> {
        match content {
            ContentRef::Inline(text) => {
                self.read_into_budget(text.len(), async { Ok(text.clone().into()) })
                    .await
            }
            ContentRef::File(path) => {
                let file = file::find(path, &self.roots, self.max).await?;
                // A file that was changed has another key.
                self.fetch_cached(
                    file.key.clone(),
                    self.read_into_budget(file.size, file.read()),
                )
                .await
            }
            ContentRef::Url(url) => {
                let fetch = async {
                    let object = self.stores.find(url, self.max).await?;
                    self.read_into_budget(object.size, object.read()).await
                };
                self.fetch_cached(url.clone(), fetch).await
            }
        }
    }

    /// Reads content of `size` bytes once there is memory for it.
    async fn read_into_budget(
        &self,
        size: usize,
        read: impl Future<Output = Result<Vec<u8>, ContentError>>,
    ) -> Result<Bytes, ContentError> {
        let mut reserving = pin!(self.budget.reserve(size));
        let reservation = loop {
            tokio::select! {
                biased;
                reservation = &mut reserving => break reservation,
                // The cache evicts what exceeds its limits only while it is used.
                () = sleep(CACHE_CLEANUP_PAUSE) => self.cache.run_pending_tasks().await,
            }
        };
        Ok(reservation.keep(wire::format(read.await?)?))
    }

    /// Returns the content with this key from the cache, or else fetches and caches it.
    async fn fetch_cached(
        &self,
        key: String,
        fetch: impl Future<Output = Result<Bytes, ContentError>>,
    ) -> Result<Bytes, ContentError> {
        let (mut fetch, mut fetched) = (pin!(fetch), None);
        let put = async {
            let content = fetch.as_mut().await?;
            fetched = Some(content.clone());
            Ok(CachedContent::new(content))
        };
        let entry = self
            .cache
            .try_get_with(key, put)
            .await
            .map_err(|err: Arc<ContentError>| (*err).clone())?;
        let is_hit = fetched.is_none();
        match fetched.or_else(|| entry.content()) {
            Some(content) => {
                self.metrics.content_read(if is_hit {
                    ContentRead::Hit
                } else {
                    ContentRead::Miss
                });
                Ok(content)
            }
            // Another request fetched it, and the cache has already evicted it.
            None => {
                self.metrics.content_read(ContentRead::Miss);
                fetch.await
            }
        }
    }
}

/// Content in the cache. The cache frees an evicted entry only after it was used some more times.
/// But other requests wait for the memory, so the content is released as soon as its entry is
/// evicted.
#[derive(Clone)]
struct CachedContent {
    content: Arc<Mutex<Option<Bytes>>>,
    size: usize,
}

impl CachedContent {
    fn new(content: Bytes) -> Self {
        Self {
            size: content.len(),
            content: Arc::new(Mutex::new(Some(content))),
        }
    }

    fn content(&self) -> Option<Bytes> {
        self.content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn release(&self) {
        self.content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;

    use super::*;

    #[tokio::test]
    async fn files_are_read_under_the_roots_and_nowhere_else() {
        let folder = std::env::temp_dir().join(format!("redeliver-content-{}", std::process::id()));
        let root = folder.join("root");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("in.eml"), "Subject: x\n").unwrap();
        std::fs::write(root.join("long.eml"), "x".repeat(1_000)).unwrap();
        std::fs::write(folder.join("out.eml"), "Subject: y\n").unwrap();
        let contents = Contents::new(vec![root.clone()]);
        let read = |path: PathBuf| {
            let contents = contents.clone();
            async move {
                contents
                    .read(&ContentRef::File(path.display().to_string()))
                    .await
            }
        };
        assert_eq!(
            &read(root.join("in.eml")).await.unwrap()[..],
            b"Subject: x\r\n"
        );
        std::os::unix::fs::symlink(root.join("loop.eml"), root.join("loop.eml")).unwrap();
        std::fs::write(root.join("empty.eml"), "\r\n \n").unwrap();
        let long = "x".repeat(300);
        let missing = [
            "../out.eml",
            "nothing.eml",
            ".",
            "long.eml",
            "in.eml/x",
            "loop.eml",
            "empty.eml",
            &long,
        ];
        for outside in missing {
            assert!(
                matches!(
                    read(root.join(outside)).await,
                    Err(ContentError::Missing(_))
                ),
                "{outside}"
            );
        }
        std::fs::write(root.join("in.eml"), "Subject: another\n").unwrap();
        assert_eq!(
            &read(root.join("in.eml")).await.unwrap()[..],
            b"Subject: another\r\n",
            "the changed file is read again"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn reading_from_a_folder_that_does_not_answer_ends_at_the_timeout() {
        // Simulates a file system that hangs: the only blocking thread does not return until the
        // test releases it.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, held) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || held.recv());
        let limit = Duration::from_millis(20);
        let settings = config::content::Content {
            timeout: limit,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        let read = async {
            timeout(
                500 * limit,
                contents.read(&ContentRef::File("/nothing.eml".to_owned())),
            )
            .await
        };
        let read = runtime.block_on(read).expect("reading has a time limit");
        assert!(matches!(read, Err(ContentError::Unread(_))), "{read:?}");
        drop(release);
    }

    #[tokio::test]
    async fn a_reader_that_waits_for_memory_gets_what_the_cache_can_evict() {
        // There is memory for reading one content, and the cache keeps none.
        let size = 1 << 10;
        let settings = config::content::Content {
            cache: 0,
            memory: 3 * size,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        for n in 0..3 {
            let read = contents.fetch_cached(
                n.to_string(),
                contents.read_into_budget(size, async { Ok(b"Subject: x\n".to_vec()) }),
            );
            let read = timeout(100 * CACHE_CLEANUP_PAUSE, read)
                .await
                .expect("no content is held");
            assert_eq!(&read.unwrap()[..], b"Subject: x\r\n");
        }
    }

    #[tokio::test]
    async fn the_cache_is_limited_by_the_bytes_of_its_content() {
        let settings = config::content::Content {
            cache: 10_000,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        for n in 0..100 {
            contents
                .fetch_cached(format!("s3://bucket/{n}"), async {
                    Ok(Bytes::from(vec![b'x'; 900]))
                })
                .await
                .unwrap();
        }
        contents.cache.run_pending_tasks().await;
        assert!(
            contents.cache.weighted_size() <= 10_000,
            "{}",
            contents.cache.weighted_size()
        );
        assert!(contents.cache.entry_count() > 0);
    }

    #[tokio::test]
    async fn the_cache_keeps_recent_content_and_drops_content_that_was_used_often_before() {
        let settings = config::content::Content {
            cache: 10_000,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        let read = async |name: &str| {
            contents
                .fetch_cached(name.to_owned(), async { Ok(Bytes::from(vec![b'x'; 900])) })
                .await
                .unwrap();
            contents.cache.run_pending_tasks().await;
        };
        for _ in 0..100 {
            read("s3://bucket/earlier").await;
        }
        for n in 0..20 {
            read(&format!("s3://bucket/{n}")).await;
        }
        assert!(
            contents.cache.contains_key("s3://bucket/19"),
            "the newest content is kept"
        );
        assert!(
            !contents.cache.contains_key("s3://bucket/earlier"),
            "content that no campaign needs any more is dropped"
        );
    }
}
