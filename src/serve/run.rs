//! The life of a server: it opens its port, loads, answers, and stops.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::app::{App, Model};
use super::options::ServeOptions;
use super::routes;
use super::tls;
use crate::{Engine, Error, Result};

/// Threads that answer requests; what they compute is little, and the model has threads of its own.
const THREADS: usize = 2;
/// Threads that turn prompts into tokens. More would take memory each, and no time off a full machine.
const BLOCKING_THREADS: usize = 4;
/// Time between two looks at whether all requests have ended.
const LOOK: Duration = Duration::from_millis(10);
/// Time for responses that are complete to reach their readers.
const FLUSH: Duration = Duration::from_secs(1);

/// A server with an open port.
///
/// ```no_run
/// use colar_engine::Engine;
/// use colar_engine::serve::{ServeOptions, Server};
///
/// # fn main() -> colar_engine::Result<()> {
/// let server = Server::bind(ServeOptions::default())?;
/// println!("listening on {}", server.address());
/// server.run(|| Engine::load("models/SmolLM2-135M", Some("runs/colar/best")))
/// # }
/// ```
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
    stopper: Stopper,
}

/// Stops a server, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    asked: Arc<Notify>,
}

impl Stopper {
    /// Has the server take no more requests, and end when those that it has taken have ended, or when the grace period is
    /// over.
    pub fn stop(&self) {
        self.asked.notify_one();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the port, where nobody is answered before [`run`](Server::run).
    ///
    /// # Errors
    /// An address that cannot be listened on, options out of range, and files of TLS that are no good.
    pub fn bind(options: ServeOptions) -> Result<Self> {
        options.scheduler().validate()?;
        let tls = options.tls.as_ref().map(tls::configuration).transpose()?.map(RustlsConfig::from_config);
        let place = format!("{}:{}", options.host, options.port);
        let listener = TcpListener::bind((options.host.as_str(), options.port)).map_err(Error::io(&place))?;
        listener.set_nonblocking(true).map_err(Error::io(&place))?;
        let address = listener.local_addr().map_err(Error::io(&place))?;
        let app = Arc::new(App::new(options)?);
        Ok(Server { app, listener, address, tls, stopper: Stopper::default() })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its stopper, for any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Answers requests until it is stopped; those for the model when `load` has loaded it.
    ///
    /// # Errors
    /// That of `load`, and those of the operating system.
    pub fn run(self, load: impl FnOnce() -> Result<Engine> + Send + 'static) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("colar-serve")
            .enable_all()
            .build()
            .map_err(|e| Error::other(format!("cannot start the server's threads: {e}")))?;
        let loaded = self.load(load)?;
        let ended = runtime.block_on(self.live(loaded));
        // A model that is still being loaded is not waited for.
        runtime.shutdown_background();
        ended
    }

    /// Loads the model beside the answers of those who cannot wait.
    fn load(
        &self,
        load: impl FnOnce() -> Result<Engine> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (told, loaded) = oneshot::channel();
        let app = Arc::clone(&self.app);
        let load = move || {
            let model = load().and_then(|engine| Model::new(engine, &app.options));
            // Nobody hears it where the server has ended.
            let _ = told.send(model.map(|model| app.ready(model)));
        };
        let thread = std::thread::Builder::new().name("colar-load".to_owned()).spawn(load);
        thread.map_err(|e| Error::other(format!("cannot start a thread: {e}")))?;
        Ok(loaded)
    }

    async fn live(self, loaded: oneshot::Receiver<Result<()>>) -> Result<()> {
        let Server { app, listener, address, tls, stopper } = self;
        let handle = Handle::new();
        let router = routes::router(Arc::clone(&app)).into_make_service();
        let fault = move |e| Error::io(address.to_string())(e);
        let server = axum_server::from_tcp(listener).map_err(fault)?.handle(handle.clone());
        let mut serving = match tls {
            None => tokio::spawn(server.acceptor(NoDelayAcceptor::new()).serve(router)),
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new());
                tokio::spawn(server.acceptor(acceptor).serve(router))
            }
        };
        let ready = async {
            loaded.await.unwrap_or_else(|_| Err(Error::other("a fault while the model was loaded")))?;
            std::future::pending().await
        };
        tokio::select! {
            failed = ready => return failed,
            ended = &mut serving => {
                let ended = ended.unwrap_or_else(|e| Err(std::io::Error::other(e)));
                return ended.map_err(fault);
            }
            () = stopper.asked.notified() => {}
        }
        stop(&app).await;
        handle.graceful_shutdown(Some(FLUSH));
        // Connections that stay open without a request are not waited for.
        let _ = timeout(2 * FLUSH, serving).await;
        Ok(())
    }
}

/// Takes no more requests, and waits until there are none; those that take too long are cancelled.
async fn stop(app: &App) {
    app.stop();
    let over = Instant::now() + app.options.grace_period;
    while app.running.count() > 0 && Instant::now() < over {
        sleep(LOOK).await;
    }
    app.running.cancel();
    let over = Instant::now() + FLUSH;
    while app.running.count() > 0 && Instant::now() < over {
        sleep(LOOK).await;
    }
}
