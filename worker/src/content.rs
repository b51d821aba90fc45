//! The content of messages: read from where the platform left it, kept for others that have the
//! same, and made fit for the wire. It is read whole: a campaign's jobs share one copy, and whether
//! its lines can be sent has to be known before anybody is connected to. So one bound holds for all
//! of it together.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::job::ContentRef;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::time::{sleep, timeout};

pub mod error;
mod file;
mod object;
mod room;
mod wire;

use error::ContentError;
use object::Stores;
use room::Room;

/// How long who waits for room lets pass before the cache is asked to let go of what it need not
/// keep.
const HOUSEKEEPING: Duration = Duration::from_millis(50);

/// Reads content, and keeps what was read lately. Clones share what they keep.
#[derive(Clone)]
pub struct Contents {
    roots: Arc<[PathBuf]>,
    stores: Arc<Stores>,
    kept: Cache<String, Kept>,
    room: Arc<Room>,
    max: usize,
    limit: Duration,
}

impl Contents {
    /// Content from these folders, and inline content.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        let settings = config::content::Content {
            roots,
            ..config::model::Config::embedded().content
        };
        Self::with_stores(&settings, Stores::default())
    }

    /// Content from where the configuration allows.
    ///
    /// # Errors
    /// Where a store cannot be used as it is configured.
    pub fn from_config(settings: &config::content::Content) -> Result<Self, String> {
        // Others' variables may be no text at all.
        let variables = std::env::vars_os();
        let texts = variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_variables(settings, &texts.collect::<Vec<_>>())
    }

    /// The same with these variables in the place of the environment's.
    ///
    /// # Errors
    /// Where a store cannot be used as it is configured.
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
        let kept = Cache::builder()
            .weigher(|key: &String, kept: &Kept| {
                (key.len() + kept.size).try_into().unwrap_or(u32::MAX)
            })
            .eviction_listener(|_, kept, _| kept.let_go())
            // One without capacity is switched off and tells nobody what it drops, which then takes
            // room for some uses more.
            .max_capacity(settings.cache.max(1) as u64)
            // What a campaign needs now stays, however often an earlier one was asked for.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(settings.cache_for)
            .build();
        let roots = settings.roots.clone().into();
        let room = Arc::new(Room::new(settings.memory));
        Self {
            roots,
            stores: Arc::new(stores),
            kept,
            room,
            max: settings.max,
            limit: settings.timeout,
        }
    }

    /// The content, with CRLF line ends (RFC 5321, section 2.3.8) and no line that mail cannot
    /// have. Many that ask for the same content at once cause one fetch; where there is no room for
    /// it in memory it waits, as long as reading may take.
    pub async fn read(&self, content: &ContentRef) -> Result<Bytes, ContentError> {
        let late = || ContentError::unread("it did not come in time, or there was no room for it");
        timeout(self.limit, self.read_at_leisure(content))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn read_at_leisure(&self, content: &ContentRef) -> Result<Bytes, ContentError> {
        match content {
            ContentRef::Inline(text) => {
                self.fit(text.len(), async { Ok(text.clone().into()) })
                    .await
            }
            ContentRef::File(path) => {
                let file = file::find(path, &self.roots, self.max).await?;
                // A file that was written anew has another key.
                self.keep(file.key.clone(), self.fit(file.size, file.read()))
                    .await
            }
            ContentRef::Url(url) => {
                let fetch = async {
                    let object = self.stores.find(url, self.max).await?;
                    self.fit(object.size, object.read()).await
                };
                self.keep(url.clone(), fetch).await
            }
        }
    }

    /// Reads content of `size` bytes as soon as there is room for it.
    async fn fit(
        &self,
        size: usize,
        read: impl Future<Output = Result<Vec<u8>, ContentError>>,
    ) -> Result<Bytes, ContentError> {
        let mut taken = pin!(self.room.take(size));
        let room = loop {
            tokio::select! {
                biased;
                room = &mut taken => break room,
                // By itself the cache lets go of what is too much for it only when it is used.
                () = sleep(HOUSEKEEPING) => self.kept.run_pending_tasks().await,
            }
        };
        Ok(room.keep(wire::fit(read.await?)?))
    }

    async fn keep(
        &self,
        key: String,
        fetch: impl Future<Output = Result<Bytes, ContentError>>,
    ) -> Result<Bytes, ContentError> {
        let (mut fetch, mut fetched) = (pin!(fetch), None);
        let put = async {
            let content = fetch.as_mut().await?;
            fetched = Some(content.clone());
            Ok(Kept::new(content))
        };
        let kept = self
            .kept
            .try_get_with(key, put)
            .await
            .map_err(|err: Arc<ContentError>| (*err).clone())?;
        match fetched.or_else(|| kept.content()) {
            Some(content) => Ok(content),
            // The cache has let go of what another has just read.
            None => fetch.await,
        }
    }
}

/// Content in the cache, which frees an entry's memory some uses after it has dropped it: what it
/// drops is let go of at once, for it has room that others wait for.
#[derive(Clone)]
struct Kept {
    content: Arc<Mutex<Option<Bytes>>>,
    size: usize,
}

impl Kept {
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

    fn let_go(&self) {
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
            "written anew"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_does_not_answer_keeps_nobody_for_longer_than_the_timeout() {
        // What a file system that hangs does: the one thread that asks it never comes back, until
        // the test lets it.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (let_go, held) = mpsc::channel::<()>();
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
        let read = runtime.block_on(read).expect("it has a time limit");
        assert!(matches!(read, Err(ContentError::Unread(_))), "{read:?}");
        drop(let_go);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_what_the_cache_need_not_keep() {
        // Room for reading one content, and a cache that keeps none.
        let size = 1 << 10;
        let settings = config::content::Content {
            cache: 0,
            memory: 3 * size,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        for n in 0..3 {
            let read = contents.keep(
                n.to_string(),
                contents.fit(size, async { Ok(b"Subject: x\n".to_vec()) }),
            );
            let read = timeout(100 * HOUSEKEEPING, read)
                .await
                .expect("nobody holds any");
            assert_eq!(&read.unwrap()[..], b"Subject: x\r\n");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_its_bytes() {
        let settings = config::content::Content {
            cache: 10_000,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        for n in 0..100 {
            contents
                .keep(format!("s3://bucket/{n}"), async {
                    Ok(Bytes::from(vec![b'x'; 900]))
                })
                .await
                .unwrap();
        }
        contents.kept.run_pending_tasks().await;
        assert!(
            contents.kept.weighted_size() <= 10_000,
            "{}",
            contents.kept.weighted_size()
        );
        assert!(contents.kept.entry_count() > 0);
    }

    #[tokio::test]
    async fn what_was_used_last_is_kept_and_what_was_used_often_before_is_not() {
        let settings = config::content::Content {
            cache: 10_000,
            ..config::model::Config::embedded().content
        };
        let contents = Contents::with_stores(&settings, Stores::default());
        let ask = async |name: &str| {
            contents
                .keep(name.to_owned(), async { Ok(Bytes::from(vec![b'x'; 900])) })
                .await
                .unwrap();
            contents.kept.run_pending_tasks().await;
        };
        for _ in 0..100 {
            ask("s3://bucket/earlier").await;
        }
        for n in 0..20 {
            ask(&format!("s3://bucket/{n}")).await;
        }
        assert!(contents.kept.contains_key("s3://bucket/19"), "the newest");
        assert!(
            !contents.kept.contains_key("s3://bucket/earlier"),
            "what no campaign asks for any more"
        );
    }
}
