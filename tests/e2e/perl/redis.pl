# Redis.pm. `once`: its default, which is never to connect again. `again`: with reconnect, it does and sends the command
# once more, which may by then have run. `careful`: with conservative_reconnect, it dies then instead.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Ledger;
use Redis;

my %modes = (
    once    => [],
    again   => [reconnect => 30, every => 100_000],
    careful => [reconnect => 30, every => 100_000, conservative_reconnect => 1],
);
my $mode = $ARGV[0];
my $redis = open_redis();

sub open_redis {
    my $redis = Redis->new(
        server        => setting('REDIS_HOST') . ':' . setting('REDIS_PORT'),
        password      => setting('REDIS_PASSWORD'),
        cnx_timeout   => 2,
        read_timeout  => 20,    # seconds, longer than hold_timeout
        write_timeout => 20,
        @{ $modes{$mode} },
    );
    $redis->select(2);          # Redis.pm remembers it for when it connects again
    return $redis;
}

sub at_rest {
    my $key = "rest:$mode";
    my $bytes = join '', map { chr($_ % 256) } 1 .. 100_000;
    $redis->set($key, $bytes);
    same($bytes, $redis->get($key), 'bytes');
    same(undef, scalar $redis->get('rest:nothing'), 'nothing');

    # Pipelining: a callback for each reply.
    $redis->set($key, 0);
    my @counted;
    $redis->incr($key, sub { push @counted, $_[0] }) for 1 .. 1000;
    $redis->wait_all_responses;
    same([1 .. 1000], \@counted, 'pipeline');

    $redis->multi;
    $redis->set($key, 7);
    $redis->incr($key);
    same(['OK', 8], [$redis->exec], 'MULTI');

    $redis->watch($key);
    open_redis()->incr($key);
    $redis->multi;
    $redis->incr($key);
    same(undef, scalar $redis->exec, 'WATCH');

    same(undef, scalar $redis->blpop('rest:empty', 1), 'BLPOP');

    # An error reply is an exception, and the connection goes on.
    eval { $redis->lpush($key, 'x') };
    $@ =~ /WRONGTYPE/ or die "no WRONGTYPE: $@";
    same('PONG', $redis->ping, 'PING');

    # A child must not use its parent's connection; with reconnect, Redis.pm sees that and opens one of its own.
    my $child = fork // die "fork: $!";
    if ($child == 0) {
        my $own = $mode eq 'once' ? open_redis() : $redis;
        $own->incr($key) for 1 .. 100;
        exit 0;
    }
    my $before = $redis->get($key);
    $redis->get($key) >= $before or die "it went back\n" for 1 .. 100;
    waitpid $child, 0;
    same(0, $?, 'the child');
    same(109, $redis->get($key), 'after the fork');

    my $subscriber = open_redis();
    my @heard;
    $subscriber->subscribe("news:$mode", sub { push @heard, $_[0] });
    same(1, $redis->publish("news:$mode", 'flash'), 'PUBLISH');
    $subscriber->wait_for_messages(5) until @heard;
    same(['flash'], \@heard, 'messages');
}

at_rest();
keep_ledger(
    sub {
        my ($id) = @_;
        return $redis->rpush(setting('LEDGER'), $id);
    },
    sub { $redis = open_redis() },
);
