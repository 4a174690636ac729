use standalone::data_dir::DataDir;
use standalone::postgres::{Database, Servers};
#[tokio::test]
#[ignore]
async fn hold() {
    let t = std::time::Instant::now();
    let run = async {
        let d = DataDir::open(std::path::Path::new(&std::env::var("DD").unwrap())).map_err(|e| e.to_string())?;
        let n = |name, user, password, database, port| Database { name, port, user, password, database };
        let s = Servers::start(
            &d,
            vec![
                n("order", "order_user", "order_pass", "order_db", 5433),
                n("payment", "payment_user", "payment_pass", "payment_db", 5434),
                n("inventory", "inventory_user", "inventory_pass", "inventory_db", 5435),
                n("orchestrator", "orchestrator_user", "orchestrator_pass", "orchestrator_db", 5436),
            ],
            |l| eprintln!("{:?} {l}", t.elapsed()),
        )
        .await
        .map_err(|e| e.to_string())?;
        eprintln!("{:?} READY id {}", t.elapsed(), d.instance_id());
        let ms: u64 = std::env::var("HOLD_MS").map(|v| v.parse().unwrap()).unwrap_or(0);
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        let t = std::time::Instant::now();
        s.stop().await;
        eprintln!("stopped in {:?}", t.elapsed());
        Ok::<_, String>(())
    };
    if let Err(e) = run.await {
        eprintln!("{:?} ERROR {e}", t.elapsed());
        std::process::exit(1)
    }
}
