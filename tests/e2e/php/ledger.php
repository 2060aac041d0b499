<?php
// What every PHP program here shares: the lines by which the test follows its ledger.

error_reporting(E_ALL);
set_error_handler(function (int $level, string $message, string $file, int $line) {
    // Debian's Illuminate and predis are older than its PHP, which finds their style outdated.
    if ($level !== E_DEPRECATED) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
});

function setting(string $name): string
{
    return getenv($name) ?: throw new Exception("$name is not set");
}

/** By the file, or because the test itself is gone: what was forked here is nobody else's to end. */
function stopped(): bool
{
    clearstatcache();
    return file_exists(setting('STOP_FILE')) || !is_dir(dirname(setting('STOP_FILE')));
}

function say(string $line): void
{
    fwrite(STDOUT, "$line\n");
}

function same(mixed $expected, mixed $actual): void
{
    if ($expected !== $actual) {
        throw new Exception('expected '.var_export($expected, true).', got '.var_export($actual, true));
    }
}

/** Writes numbers until the test says stop. $push writes one and returns Redis' answer to RPUSH. */
function keep_ledger(callable $push): void
{
    say('ready');
    for ($id = 1; !stopped(); $id++) {
        try {
            $length = $push($id);
            // A value that is no answer to RPUSH, such as the `false` that phpredis makes of some errors, ends the test.
            is_int($length) && $length > 0 ? say("acknowledged $id") : throw new Error("RPUSH: ".var_export($length, true));
        } catch (RedisException | Predis\Connection\ConnectionException $lost) {
            say("unknown $id {$lost->getMessage()}");
        }
        usleep(10_000);
    }
}
