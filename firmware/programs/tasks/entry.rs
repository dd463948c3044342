//! Tasks on a board.
#![no_std]
#![no_main]

use board::Board;

#[embassy_executor::task]
async fn keep_time() {
    tasks::keep_time::<Board>().await
}

#[embassy_executor::task]
async fn read() {
    tasks::read::<Board>().await
}

#[board::entry]
fn main() -> ! {
    tasks::main::<Board>(|spawner| {
        spawner.spawn(keep_time()?);
        spawner.spawn(read()?);
        Ok(())
    })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
