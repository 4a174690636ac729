//! Several instances of each service under a steady load: the stage of the trials `rolling`, `killed` and `steady`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e_tests::clients::{Sent, checks};
use e2e_tests::{Client, Instance, Layout, Service, Services, eventually, forwarder};

use crate::load::{Load, Served, Told};
use crate::routing::{Replies, Routing};
use crate::{NORMAL, disagreement};

/// Of each topic: more than instances, and not a multiple of three.
const PARTITIONS: i32 = 8;

/// The least share of replies that has to reach the waiting process while nothing happens.
const LEAST_HERE: f64 = 0.99;

/// How soon after the last answer nobody may wait any more.
const NOBODY_LIMIT: Duration = Duration::from_secs(5);

/// What takes part.
pub struct Several {
    pub services: Services,
    pub load: Load,
    pub routing: Routing,
    client: Client,
}

/// A part of the trial that has begun.
pub struct Span {
    pub began: Instant,
    replies: Replies,
}

/// A part of the trial that is over.
pub struct Part {
    what: String,
    began: Instant,
    until: Instant,
    replies: Replies,
}

impl Several {
    /// So many of each, and `rate` checkouts a second from now on. The order services stand behind a forwarder.
    pub async fn start(who: &'static str, instances: usize, rate: u32) -> Result<Self> {
        let layout = Layout { instances, partitions: PARTITIONS };
        let mut services = Services::lay_out(layout, &[]).await?;
        let orders = addresses(&services, Service::Order)?;
        services.set("ORDER_SERVICE_URL", &format!("http://{}", forwarder::start(orders).await?));
        // Whatever goes wrong from here on can be looked at.
        println!("logs and databases, kept unless all is well: {}", services.keep_files(true)?.display());
        services.start_all().await?;
        let client = services.quiet_client()?;
        let orchestrators = addresses(&services, Service::Orchestrator)?;
        let routing = Routing::watch(&client, &orchestrators);
        let load = Load::start(who, &orchestrators, rate)?;
        Ok(Self { services, load, routing, client })
    }

    /// Begins a part.
    pub fn span(&self) -> Span {
        Span { began: Instant::now(), replies: self.routing.replies() }
    }

    /// Ends a part, in which this happened.
    pub fn part(&self, span: Span, what: String) -> Part {
        println!("{what}");
        Part { what, began: span.began, until: Instant::now(), replies: self.replies_since(&span) }
    }

    /// A part in which nothing happens; answers what is wrong.
    pub async fn calm(&self, time: Duration) -> Vec<String> {
        let span = self.span();
        tokio::time::sleep(time).await;
        let (told, replies) = (Told::of(&self.load.since(span.began)), self.replies_since(&span));
        println!("calm: {told}; {replies}");
        if replies.share_here() < LEAST_HERE { vec![format!("while nothing happened: {replies}")] } else { Vec::new() }
    }

    /// Ends the trial. The files stay if something is wrong.
    pub fn over(self, wrong: Vec<String>) -> Result<Vec<String>> {
        self.services.keep_files(!wrong.is_empty())?;
        Ok(wrong)
    }

    /// What became of the replies since the span began.
    pub fn replies_since(&self, span: &Span) -> Replies {
        self.routing.replies() - span.replies
    }

    /// Ends the load; gives all answers, and what is wrong with them or with the rows.
    pub async fn ended(&mut self) -> Result<(Vec<Served>, Vec<String>)> {
        let served = self.load.ended().await?;
        println!("all: {}; {}", Told::of(&served), self.routing.replies());
        let nobody = async || Ok((self.routing.waiters() == 0).then_some(()));
        let left = eventually("nobody waits", NOBODY_LIMIT, nobody).await.err();
        let mut wrong: Vec<String> = disagreement(&self.client).await?.into_iter().collect();
        wrong.extend(left.map(|_| format!("{} still wait when all are answered", self.routing.waiters())));
        let sent: Vec<Sent> = served.iter().map(|one| one.sent.clone()).collect();
        let findings = checks::check(&sent, &checks::read(&self.client.databases).await?);
        println!(
            "{} checkouts sent, {} answers checked, {} sagas acknowledged, {} lost, {} wrong",
            sent.len(),
            findings.answers,
            findings.acknowledged,
            findings.lost.len(),
            findings.violations.len()
        );
        wrong.extend(findings.lost.into_iter().chain(findings.violations));
        wrong.extend(other_answers(&served));
        Ok((served, wrong))
    }
}

impl Part {
    /// What became of the checkouts that were answered in it, in a line; and how soon all was as on a good day again.
    pub fn told(&self, served: &[Served]) -> (String, Duration) {
        let (own, stuck) = answered_and_stuck(served, self.began..self.until);
        let (told, normal) = (Told::of(&own), normal_after(own.iter().chain(&stuck), self.began));
        (format!("{}: normal after {:.1} s; {told}; {}", self.what, normal.as_secs_f64(), self.replies), normal)
    }
}

/// The checkouts that were answered within this time, and those that had waited for too long when it was over. What
/// had just begun then is the next part's.
fn answered_and_stuck(served: &[Served], time: Range<Instant>) -> (Vec<Served>, Vec<Served>) {
    let answered = |one: &Served| one.began + one.took;
    let own = served.iter().filter(|one| time.contains(&answered(one)));
    let stuck = served.iter().filter(|one| answered(one) >= time.end && one.began + NORMAL < time.end);
    (own.cloned().collect(), stuck.cloned().collect())
}

/// How long after `event` the last checkout was begun that was not answered as on a good day.
pub fn normal_after<'a>(served: impl IntoIterator<Item = &'a Served>, event: Instant) -> Duration {
    let unusual = served.into_iter().filter(|one| one.took > NORMAL || one.status() != Some(200));
    unusual.map(|one| one.began.saturating_duration_since(event)).max().unwrap_or_default()
}

/// Answers that are neither 200 nor 202, in words.
fn other_answers(served: &[Served]) -> Vec<String> {
    let told = Told::of(served);
    let other = told.answers.iter().filter(|(status, _)| !["200", "202"].contains(&status.as_str()));
    other.map(|(status, count)| format!("{count} were answered {status}")).collect()
}

/// Where the instances of a service listen.
fn addresses(services: &Services, service: Service) -> Result<Vec<SocketAddr>> {
    let of_service = services.instances().into_iter().filter(|instance: &Instance| instance.service == service);
    of_service.map(|instance| services.address(instance)).collect()
}

#[cfg(test)]
mod tests {
    use e2e_tests::Answer;
    use e2e_tests::clients::{Got, Request, Reuse, Scenario, Try};

    use super::*;

    fn served(began: Instant, took: Duration, got: Got) -> Served {
        let (scenario, reuse) = (Scenario::Plain, Reuse::No);
        let items = Vec::new();
        let request = Request { index: 0, user_id: "u".into(), scenario, key: None, reuse, items, seed: 0 };
        let tries = vec![Try { own_body: true, got: Got::NoConnection }, Try { own_body: true, got }];
        Served { sent: Sent { request, tries, undecided: false }, began, took }
    }

    fn answer(status: u16) -> Got {
        Got::Answer(Answer { status, headers: Default::default(), text: String::new() })
    }

    #[test]
    fn it_is_normal_again_after_the_last_checkout_that_was_slow_or_not_completed() {
        let (event, ms) = (Instant::now(), Duration::from_millis);
        let (quick, slow) = (ms(20), NORMAL + ms(1));
        let mut all = vec![served(event, quick, answer(200)), served(event + ms(9000), quick, answer(200))];
        assert_eq!(normal_after(&all, event), Duration::ZERO);
        all.push(served(event + ms(3000), quick, answer(202)));
        assert_eq!(normal_after(&all, event), ms(3000));
        all.push(served(event + ms(4000), slow, answer(200)));
        assert_eq!(normal_after(&all, event), ms(4000));
        all.push(served(event + ms(5000), quick, Got::TimedOut));
        assert_eq!(normal_after(&all, event), ms(5000));
    }

    #[test]
    fn a_checkout_that_the_next_event_found_under_way_is_the_next_parts_unless_it_was_late_already() {
        let (began, ms) = (Instant::now() + Duration::from_secs(60), Duration::from_millis);
        let until = began + ms(10_000);
        let before = served(began - ms(500), ms(600), answer(200));
        let after = served(until - ms(500), ms(6000), answer(200));
        let late = served(until - ms(4000), ms(6000), answer(200));

        let (own, stuck) = answered_and_stuck(&[before.clone(), after, late.clone()], began..until);

        assert_eq!(own.iter().map(|one| one.began).collect::<Vec<_>>(), [before.began]);
        assert_eq!(stuck.iter().map(|one| one.began).collect::<Vec<_>>(), [late.began]);
        assert_eq!(normal_after(own.iter().chain(&stuck), began), ms(6000));
    }

    #[test]
    fn only_200_and_202_are_expected() {
        let now = Instant::now();
        let all = [answer(200), answer(202), answer(503), answer(503), Got::ConnectionLost];
        let all: Vec<Served> = all.into_iter().map(|got| served(now, Duration::ZERO, got)).collect();
        assert_eq!(other_answers(&all), ["2 were answered 503", "1 were answered none"]);
    }
}
