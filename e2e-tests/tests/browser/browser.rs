//! A Chromium without a window, driven over WebDriver, as a reader and operator of the dashboard.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{
    By, ChromiumLikeCapabilities as _, DesiredCapabilities, LoggingPrefsLogLevel, WebDriver, WebElement, WindowHandle,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A page may take this long to show something: other programs run beside it, on few cores.
const SOON: Duration = Duration::from_secs(60);

/// One browser at a time.
static PLACE: Semaphore = Semaphore::const_new(1);

/// A browser with one tab. Chromium and its driver end with the value.
pub struct Browser {
    // Dropped in this order: the session, which Chromium ends with, then the driver.
    web: WebDriver,
    _driver: Driver,
    base: String,
    _place: SemaphorePermit<'static>,
}

impl Browser {
    /// Starts one for the dashboard at this port.
    pub async fn start(port: u16) -> Result<Self> {
        Self::start_with(port, &[]).await
    }

    /// Likewise, with more of Chromium's flags.
    pub async fn start_with(port: u16, flags: &[&str]) -> Result<Self> {
        let place = PLACE.acquire().await?;
        // The driver's client asks for it too, and it is chosen once for a process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let driver = Driver::start()?;
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            // Tests may run as root, in containers with little shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1280,900",
            &profile,
        ]
        .iter()
        .chain(flags)
        {
            wanted.add_arg(argument)?;
        }
        wanted.set_browser_log_level(LoggingPrefsLogLevel::All)?;
        let web = WebDriver::new(driver.url.as_str(), wanted).await.context("Chromium does not start")?;
        let browser = Self { web, _driver: driver, base: format!("http://127.0.0.1:{port}"), _place: place };
        browser.prefer("light").await?;
        Ok(browser)
    }

    /// Loads a page of the dashboard.
    pub async fn open(&self, path: &str) -> Result<()> {
        Ok(self.web.goto(format!("{}{path}", self.base)).await?)
    }

    /// Loads any page.
    pub async fn open_url(&self, url: &str) -> Result<()> {
        Ok(self.web.goto(url).await?)
    }

    /// What JavaScript answers: `script` is the body of a function.
    pub async fn js(&self, script: &str) -> Result<Value> {
        Ok(self.web.execute(script, vec![]).await?.json().clone())
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&self, what: &str, expression: &str) -> Result<()> {
        let script = format!("return Boolean({expression})");
        let holds = async || Ok((self.js(&script).await? == json!(true)).then_some(()));
        match eventually(what, SOON, holds).await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}; the page says:\n{}", self.text("body").await?),
        }
    }

    /// Waits until the first such element shows these words.
    pub async fn until_shows(&self, css: &str, words: &str) -> Result<()> {
        let expression = format!("document.querySelector({})?.innerText.includes({})", json!(css), json!(words));
        self.until(&format!("{css} shows {words:?}"), &expression).await
    }

    /// The text of the first such element, as it is seen.
    pub async fn text(&self, css: &str) -> Result<String> {
        let text = self.js(&format!("return document.querySelector({})?.innerText", json!(css))).await?;
        Ok(text.as_str().with_context(|| format!("there is no {css}"))?.to_owned())
    }

    /// Clicks where a person would, once that can be clicked: a refresh may just have replaced it.
    pub async fn click(&self, css: &str) -> Result<()> {
        let clicked = async || {
            self.find(css).await?.click().await?;
            Ok(Some(()))
        };
        eventually(&format!("{css} can be clicked"), SOON, clicked).await
    }

    /// Types into an empty field.
    pub async fn fill(&self, css: &str, text: &str) -> Result<()> {
        Ok(self.find(css).await?.send_keys(text).await?)
    }

    async fn find(&self, css: &str) -> Result<WebElement> {
        self.web.find(By::Css(css)).await.with_context(|| format!("there is no {css}"))
    }

    /// Marks the page. The mark goes when another page is loaded, or the same one again.
    pub async fn mark(&self) -> Result<()> {
        self.js("window.marked = true").await?;
        Ok(())
    }

    /// # Errors
    /// When it is not the page that was marked.
    pub async fn is_the_marked_page(&self) -> Result<()> {
        ensure!(self.js("return window.marked === true").await? == json!(true), "the page was loaded again");
        Ok(())
    }

    /// From now on the page keeps what it sends: see [`Self::sent`].
    pub async fn watch_requests(&self) -> Result<()> {
        let script = "window.sent = []; const send = fetch;
                      window.fetch = (path, request) => { sent.push({ path, ...request }); return send(path, request); }";
        self.js(script).await?;
        Ok(())
    }

    /// The `POST` requests that the page has sent, each as its dialogs show it.
    pub async fn sent(&self) -> Result<Value> {
        let script = r#"return sent.filter((request) => request.method === "POST").map(({ path, headers, body }) =>
                        `POST ${path}\n${Object.entries(headers).map((header) => header.join(": ")).join("\n")}\n\n${
                        JSON.stringify(JSON.parse(body), null, 2)}`)"#;
        self.js(script).await
    }

    /// # Errors
    /// When a warning or an error was logged since the last look: by a script, for a breach of the content security
    /// policy, or for a request that failed.
    pub async fn nothing_is_wrong(&self) -> Result<()> {
        let log = self.web.browser_log().await?;
        let wrong: Vec<_> = log.iter().filter(|entry| matches!(entry.level.as_str(), "SEVERE" | "WARNING")).collect();
        ensure!(wrong.is_empty(), "the browser's console says {wrong:#?}");
        Ok(())
    }

    /// Another tab in front; answers the one that is hidden by it.
    pub async fn open_tab(&self) -> Result<WindowHandle> {
        let hidden = self.web.window().await?;
        let tab = self.web.new_tab().await?;
        self.web.switch_to_window(tab).await?;
        Ok(hidden)
    }

    /// Closes the tab that is in front and goes back to another one.
    pub async fn close_tab(&self, back_to: WindowHandle) -> Result<()> {
        self.web.close_window().await?;
        Ok(self.web.switch_to_window(back_to).await?)
    }

    /// The colours that the reader prefers: `light` or `dark`.
    pub async fn prefer(&self, colours: &str) -> Result<()> {
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.web.cdp().send_raw("Emulation.setEmulatedMedia", json!({"features": features})).await?;
        Ok(())
    }

    /// The size of what is seen of a page.
    pub async fn resize(&self, width: i64, height: i64) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.web.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(())
    }

    /// The whole page at this width, as a picture in `$SCREENSHOTS_DIR/<name>.png` where that is set.
    pub async fn picture(&self, name: &str, width: i64) -> Result<()> {
        let Some(folder) = std::env::var_os("SCREENSHOTS_DIR").map(PathBuf::from) else { return Ok(()) };
        self.resize(width, 600).await?;
        let height = self.js("return document.documentElement.scrollHeight").await?;
        self.resize(width, height.as_i64().context("a height")?).await?;
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(format!("{name}.png")), self.web.screenshot_as_png().await?)?)
    }

    /// Ends it: a value that is only dropped holds up its thread meanwhile.
    pub async fn close(self) -> Result<()> {
        Ok(self.web.quit().await?)
    }
}

/// The process that drives Chromium.
struct Driver {
    child: Child,
    url: String,
    profile: TempDir,
    /// Open as long as it runs, so that it can say more.
    _said: BufReader<ChildStdout>,
}

impl Driver {
    fn start() -> Result<Self> {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            // Ctrl-C is for the tests, which end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("there is no chromedriver: install Debian's packages chromium and chromium-driver")?;
        let mut said = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut line = String::new();
        while said.read_line(&mut line)? > 0 {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let url = format!("http://127.0.0.1:{}", port.trim().trim_end_matches('.'));
                return Ok(Self { child, url, profile: tempfile::tempdir()?, _said: said });
            }
            line.clear();
        }
        bail!("chromedriver has ended: {}", child.wait()?)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It ends its Chromium first, if that still runs.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
