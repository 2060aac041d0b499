/* hiredis, synchronous: a pipeline of ten RPUSH at a time. After an error of the context, a new context. */
#include "ledger.h"
#include <hiredis/hiredis.h>

static redisContext *open_redis(void)
{
    struct timeval connect_timeout = {5, 0};
    redisContext *redis = redisConnectWithTimeout(setting("REDIS_HOST"), atoi(setting("REDIS_PORT")), connect_timeout);
    if (redis == NULL || redis->err) {
        fprintf(stderr, "connect: %s\n", redis ? redis->errstr : "out of memory");
        exit(1);
    }
    struct timeval command_timeout = {20, 0}; /* longer than hold_timeout */
    redisSetTimeout(redis, command_timeout);
    redisEnableKeepAlive(redis);
    /* redisReconnect() would repeat neither of these two: begin with a new context instead. */
    freeReplyObject(redisCommand(redis, "AUTH %s", setting("REDIS_PASSWORD")));
    freeReplyObject(redisCommand(redis, "SELECT 2"));
    return redis;
}

static redisReply *next_reply(redisContext *redis)
{
    void *reply = NULL;
    expect(redisGetReply(redis, &reply) == REDIS_OK, "no reply: %s", redis->errstr);
    return reply;
}

static void ten_thousand_in_one_pipeline(redisContext *redis)
{
    for (int i = 0; i < 10000; i++)
        redisAppendCommand(redis, "INCR rest:pipeline");
    for (int i = 1; i <= 10000; i++) {
        redisReply *reply = next_reply(redis);
        expect(reply->type == REDIS_REPLY_INTEGER && reply->integer == i, "INCR %d: %s", i, reply->str);
        freeReplyObject(reply);
    }
}

static void values_are_bytes(redisContext *redis)
{
    char value[5000];
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (char)(i * 31);
    const char *words[] = {"SET", "rest:bytes", value};
    const size_t lengths[] = {3, 10, sizeof value};
    freeReplyObject(redisCommandArgv(redis, 3, words, lengths));
    redisReply *reply = redisCommand(redis, "GET rest:bytes");
    expect(reply->len == sizeof value && memcmp(reply->str, value, sizeof value) == 0, "other bytes came back");
    freeReplyObject(reply);
}

static void replies_nest(redisContext *redis)
{
    redisReply *outer = redisCommand(redis, "EVAL %s 0", "return {1,{2,{3,{4,{5,{6}}}}}}");
    redisReply *reply = outer;
    for (int depth = 1; depth <= 6; depth++) {
        expect(reply->type == REDIS_REPLY_ARRAY && reply->element[0]->integer == depth, "depth %d", depth);
        reply = depth < 6 ? reply->element[1] : reply->element[0];
    }
    freeReplyObject(outer);
}

static void transactions(redisContext *redis)
{
    freeReplyObject(redisCommand(redis, "MULTI"));
    freeReplyObject(redisCommand(redis, "SET rest:tx 7"));
    freeReplyObject(redisCommand(redis, "INCR rest:tx"));
    redisReply *reply = redisCommand(redis, "EXEC");
    expect(reply->elements == 2 && reply->element[1]->integer == 8, "EXEC");
    freeReplyObject(reply);
}

static void messages(redisContext *redis)
{
    redisContext *subscriber = open_redis();
    freeReplyObject(redisCommand(subscriber, "SUBSCRIBE rest:news"));
    freeReplyObject(redisCommand(redis, "PUBLISH rest:news flash"));
    redisReply *message = next_reply(subscriber);
    expect(message->elements == 3 && strcmp(message->element[2]->str, "flash") == 0, "no message");
    freeReplyObject(message);
    redisFree(subscriber);
}

static void blocking_pop_in_a_pipeline(redisContext *redis)
{
    redisAppendCommand(redis, "BLPOP rest:nothing 0.05");
    redisAppendCommand(redis, "ECHO behind");
    redisReply *reply = next_reply(redis);
    expect(reply->type == REDIS_REPLY_NIL, "BLPOP: type %d", reply->type);
    freeReplyObject(reply);
    reply = next_reply(redis);
    expect(reply->str && strcmp(reply->str, "behind") == 0, "behind BLPOP: type %d", reply->type);
    freeReplyObject(reply);
}

int main(void)
{
    enum { DEPTH = 10 };
    setvbuf(stdout, NULL, _IOLBF, 0);
    redisContext *redis = open_redis();
    ten_thousand_in_one_pipeline(redis);
    values_are_bytes(redis);
    replies_nest(redis);
    transactions(redis);
    messages(redis);
    blocking_pop_in_a_pipeline(redis);
    puts("ready");

    for (long first = 1; !stopped(); first += DEPTH) {
        for (long id = first; id < first + DEPTH; id++)
            redisAppendCommand(redis, "RPUSH %s %ld", setting("LEDGER"), id);
        for (long id = first; id < first + DEPTH; id++) {
            redisReply *reply;
            if (redis->err || redisGetReply(redis, (void **)&reply) != REDIS_OK) {
                /* Sent and not answered: nobody knows whether it ran. */
                printf("unknown %ld %s\n", id, redis->errstr);
                continue;
            }
            if (reply->type == REDIS_REPLY_INTEGER)
                printf("acknowledged %ld\n", id);
            else
                printf("refused %ld %s\n", id, reply->str);
            freeReplyObject(reply);
        }
        if (redis->err) {
            redisFree(redis);
            redis = open_redis();
        }
        usleep(20000);
    }
    redisFree(redis);
    return 0;
}
