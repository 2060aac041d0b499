/* hiredis, asynchronous, in libev's loop: an RPUSH every 5 ms, whether the ones before are answered or not, and a
 * subscriber on a connection of its own. */
#include "ledger.h"
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <hiredis/adapters/libev.h>

static redisAsyncContext *writer, *subscriber;
static ev_timer pace;
static long last_id, last_heard;

static redisAsyncContext *open_redis(redisDisconnectCallback *lost);

static void on_auth(redisAsyncContext *redis, void *reply, void *unused)
{
    redisReply *answer = reply;
    (void)redis, (void)unused;
    expect(answer == NULL || answer->type == REDIS_REPLY_STATUS, "AUTH: %s", answer ? answer->str : "");
}

static void on_connect(const redisAsyncContext *redis, int status)
{
    expect(status == REDIS_OK, "connect: %s", redis->errstr);
}

static void on_message(redisAsyncContext *redis, void *reply, void *unused)
{
    redisReply *message = reply;
    (void)redis, (void)unused;
    if (message == NULL)
        return; /* the end */
    if (strcmp(message->element[0]->str, "subscribe") == 0) {
        expect(last_id == 0, "subscribed twice");
        ev_timer_start(EV_DEFAULT_ &pace);
        return;
    }
    if (last_heard == 0)
        puts("ready");
    last_heard = atol(message->element[2]->str);
}

static void on_subscriber_lost(const redisAsyncContext *redis, int status)
{
    expect(status == REDIS_OK, "the subscriber was disconnected: %s", redis->errstr);
}

static void on_writer_lost(const redisAsyncContext *redis, int status)
{
    /* Every callback that was owed has been called with no reply; the context is freed behind this one. */
    (void)redis;
    writer = status == REDIS_OK ? NULL : open_redis(on_writer_lost);
}

static redisAsyncContext *open_redis(redisDisconnectCallback *lost)
{
    redisAsyncContext *redis = redisAsyncConnect(setting("REDIS_HOST"), atoi(setting("REDIS_PORT")));
    expect(redis != NULL && !redis->err, "connect: %s", redis ? redis->errstr : "out of memory");
    redisLibevAttach(EV_DEFAULT_ redis);
    redisAsyncSetConnectCallback(redis, on_connect);
    redisAsyncSetDisconnectCallback(redis, lost);
    redisAsyncCommand(redis, on_auth, NULL, "AUTH %s", setting("REDIS_PASSWORD"));
    return redis;
}

static void on_pushed(redisAsyncContext *redis, void *reply, void *id)
{
    redisReply *answer = reply;
    if (answer == NULL)
        printf("unknown %ld %s\n", (long)id, redis->errstr);
    else if (answer->type != REDIS_REPLY_INTEGER)
        printf("refused %ld %s\n", (long)id, answer->str);
    else
        printf("acknowledged %ld\n", (long)id);
    /* Messages published during a switch may be missed, but not for ten seconds. */
    expect((long)id - last_heard < 2000, "nothing heard since %ld", last_heard);
}

static void push(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    if (stopped()) {
        ev_timer_stop(loop, timer);
        redisAsyncDisconnect(writer); /* after the replies that are owed */
        redisAsyncFree(subscriber);
        return;
    }
    last_id++;
    redisAsyncCommand(writer, on_pushed, (void *)last_id, "RPUSH %s %ld", setting("LEDGER"), last_id);
    redisAsyncCommand(writer, NULL, NULL, "PUBLISH %s:news %ld", setting("LEDGER"), last_id);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    ev_timer_init(&pace, push, 0.005, 0.005);
    writer = open_redis(on_writer_lost);
    subscriber = open_redis(on_subscriber_lost);
    redisAsyncCommand(subscriber, on_message, NULL, "SUBSCRIBE %s:news", setting("LEDGER"));
    ev_run(EV_DEFAULT_ 0);
    return 0;
}
