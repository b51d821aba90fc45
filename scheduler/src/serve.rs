//! The scheduler as a whole: the API and upkeep, until it is stopped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use config::hooks::{Hooks, Service};
use config::model::Config;
use config::returned::Lmtp;
use config::stream::Stream;
use futures::future::OptionFuture;
use policy::table::Table;
use store::error::StoreError;
use store::handle::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::api::items::answers::AnswerRoom;
use crate::api::problem::Problem;
use crate::api::{self, Api, Limits, health};
use crate::connections::http::{self, Patience, Served};
use crate::connections::{Gate, Places};
use crate::intake::accept::Accept;
use crate::intake::dsn::Reports;
use crate::intake::json::Reader;
use crate::intake::lmtp::Listener;
use crate::intake::stream::StreamReader;
use crate::intake::webhook::Webhooks;
use crate::intake::webhook::fetch::{Fetch, Https, Unreachable};
use crate::placement::{Placer, rows_in_vain};
use crate::upkeep::Upkeep;

/// One scheduler. Any number of replicas work on one store.
#[derive(Debug)]
pub struct Scheduler {
    store: Store,
    limits: Limits,
    upkeep: Upkeep,
    grace: Duration,
    http: config::model::Scheduler,
    reader: Reader,
    reports: Reports,
    accept: Accept,
    lmtp: Lmtp,
    stream: Stream,
    access: Arc<Access>,
    hooks: Hooks,
    fetch: Arc<dyn Fetch>,
    settings: config::access::Access,
}

impl Scheduler {
    /// A scheduler on this store.
    ///
    /// # Errors
    /// Where an upkeep task's cron expression or the file of tokens cannot be read, or no DNS
    /// server is known; the text names the key.
    pub fn new(store: Store, table: Arc<Table>, config: &Config) -> Result<Self, String> {
        let upkeep = Upkeep::from_config(store.clone(), config)?;
        let routes = config
            .routes
            .iter()
            .map(|route| route.name.clone())
            .collect();
        let reader = Reader::new(config.job.inline_max, routes);
        let placer = Placer::from_config(store.clone(), config)?;
        for why in rows_in_vain(&table, &store) {
            tracing::warn!(why, "a policy row matches nothing");
        }
        let (limits, grace) = (Limits::from_config(config), config.scheduler.grace);
        let accept = Accept::new(store.clone(), table, placer)
            .with_suppress_timeout(config.scheduler.suppress_timeout);
        let reports = Reports::new(accept.clone(), store.clone(), config);
        let access = Arc::new(Access::from_config(&config.access, store.clock().clone())?);
        let (hooks, settings, lmtp) = (
            config.hooks.clone(),
            config.access.clone(),
            config.lmtp.clone(),
        );
        let fetch: Arc<dyn Fetch> = match hooks.of(Service::Ses) {
            Some(_) => Arc::new(Https::new().map_err(|why| format!("intake.hooks.ses: {why}"))?),
            None => Arc::new(Unreachable("there is no hook that needs it".to_owned())),
        };
        Ok(Self {
            store,
            accept,
            reports,
            limits,
            upkeep,
            grace,
            http: config.scheduler.clone(),
            reader,
            lmtp,
            stream: config.stream,
            access,
            hooks,
            fetch,
            settings,
        })
    }

    /// The same, which asks SNS through `fetch`.
    #[must_use]
    pub fn with_fetch(self, fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, ..self }
    }

    /// Serves on `listener` until `stop` is cancelled, then lets requests under way end within the
    /// grace.
    ///
    /// # Errors
    /// Also where anybody could reach it and nobody has said that it is meant to be open.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        Access::may_listen(&self.settings, listener.local_addr()?).map_err(io::Error::other)?;
        let lmtp = match self.lmtp.listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|err| {
                io::Error::new(
                    err.kind(),
                    format!("cannot listen on intake.lmtp.listen, which is {address}: {err}"),
                )
            })?),
            None => None,
        };
        let lmtp = lmtp.map(|listener| {
            Listener::new(listener, self.reports.clone(), &self.lmtp).run(stop.clone())
        });
        let lmtp = tokio::spawn(OptionFuture::from(lmtp));
        let Self {
            store,
            accept,
            reports,
            limits,
            reader,
            access,
            ..
        } = self;
        let bounds = (limits.batch, limits.items);
        let webhooks = Webhooks::new(
            self.hooks,
            store.clone(),
            accept.clone(),
            self.fetch,
            bounds,
        );
        tokio::spawn(access.clone().watch(stop.clone()));
        let room = Arc::new(Semaphore::new(limits.batches));
        let hooks = webhooks.clone();
        let answer_room = AnswerRoom::new(self.http.answers_max);
        let api = Api {
            store,
            accept,
            reports,
            limits,
            webhooks,
            access,
            room,
            answer_room,
            reader,
            stop: stop.clone(),
        };
        let upkeep = tokio::spawn(self.upkeep.run(stop.clone()));
        let watch = tokio::spawn(
            api.store
                .clone()
                .watch_for_losses(stop.clone().cancelled_owned()),
        );
        let reader = self.stream.enabled.then(|| {
            let (store, accept, reader) =
                (api.store.clone(), api.accept.clone(), api.reader.clone());
            StreamReader::new(store, accept, reader, self.stream.batch).run(stop.clone())
        });
        let reader = tokio::spawn(OptionFuture::from(reader));
        let reserve = api::reserve_router(api.clone());
        let served = Served {
            router: api::router(api),
            reserve,
            patience: Patience::from_config(&self.http),
        };
        let places = Places::of_the_scheduler(&self.http.connections);
        tracing::info!(
            max = places.max,
            per_peer = places.per_peer,
            "HTTP connections are bounded"
        );
        let gate = Gate::new(places);
        let server = http::serve(listener, gate, served, stop.clone());
        let grace_over = async {
            stop.cancelled().await;
            sleep(self.grace).await;
        };
        tokio::select! {
            () = async {
                let ((), lmtp) = tokio::join!(server, lmtp);
                lmtp.expect("the LMTP listener does not panic");
                // What clients that have hung up had brought.
                hooks.finish().await;
            } => {}
            () = grace_over => tracing::warn!("the grace is over; requests under way are cut off"),
        }
        reader.await.map_err(io::Error::other)?;
        watch.await.map_err(io::Error::other)?;
        upkeep.await.map_err(io::Error::other)
    }
}

/// Answers in the scheduler's place while the store is not there yet: the process is alive, and not
/// ready. Ends when `ready` is cancelled.
pub async fn serve_until_ready(
    listener: TcpListener,
    settings: config::model::Scheduler,
    ready: CancellationToken,
) {
    let not_ready = async || {
        Problem::from(StoreError::Unavailable(
            "it has not answered yet".to_owned(),
        ))
    };
    let router = Router::new()
        .route("/healthz", get(health::alive))
        .fallback(not_ready);
    let served = Served {
        reserve: router.clone(),
        router,
        patience: Patience::from_config(&settings),
    };
    http::serve(
        listener,
        Gate::new(Places::of_the_scheduler(&settings.connections)),
        served,
        ready,
    )
    .await;
}
