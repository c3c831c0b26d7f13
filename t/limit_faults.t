# Redis killed, restarted, stalled, flushed, full, busy and spoilt under two gateways at four times the limit: nothing is answered 5xx,
# nobody waits long, what both admit together is bounded, and when all is well again it is exact again.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

require './t/lib/Sluice/faults.pl';

my @args  = qw(--lua-time-limit 50);
my @aof   = qw(--appendonly yes --appendfsync always);
my $redis = redis(args => [ @args, @aof ]);
gateways($redis->{port});

# Starts it where it was, with what it has on disk or (no arguments) without.
sub restart {
    my $dir = $redis->{dir};
    waitpid $redis->{pid}, 0;
    $redis = redis(port => $redis->{port}, args => [ @args, @_ ? ('--dir', $dir, @_) : () ]);
    $redis->{dir} = $dir;
    return;
}

my $say = sub { my @words = @_; return sub { ask($redis->{port}, @words) } };

fault('killed, restarted with AOF', begin => sub { $redis->signal('KILL') }, end => sub { restart(@aof) });
fault('killed, restarted empty', begin => sub { $redis->signal('KILL') }, end => sub { restart() });
fault('stopped', begin => sub { $redis->signal('STOP') }, end => sub { $redis->signal('CONT') });
fault('CLIENT PAUSE', begin => $say->(qw(CLIENT PAUSE 800 ALL)));
fault('SCRIPT FLUSH', each => $say->(qw(SCRIPT FLUSH)), strict => 1);
fault('CLIENT KILL', each => $say->(qw(CLIENT KILL TYPE normal SKIPME yes)));
fault('FLUSHALL', each => $say->('FLUSHALL'), forgets => 8);

# A script of somebody else's holds Redis; then it is BUSY for a while, and then it is killed.
my $other;
fault('BUSY', begin => sub {
    $other = redis_up($redis->{port});
    syswrite $other, "*3\r\n\$4\r\nEVAL\r\n\$17\r\nwhile true do end\r\n\$1\r\n0\r\n";
}, end => sub { is ask($redis->{port}, qw(SCRIPT KILL)), 'OK', 'BUSY: over'; close $other });
fault('full, noeviction', begin => $say->(qw(CONFIG SET maxmemory 1)), end => $say->(qw(CONFIG SET maxmemory 0)));
fault('full, allkeys-lru', begin => sub { $say->(qw(CONFIG SET maxmemory-policy allkeys-lru))->(); $say->(qw(CONFIG SET maxmemory 1))->() },
    end => $say->(qw(CONFIG SET maxmemory 0)), forgets => 8);

# Others write at our keys.
my $round = 0;
fault('spoilt', forgets => 8, each => sub {
    my $redis = redis_up($redis->{port});
    for my $key (@{ ask($redis, 'KEYS', 'sluice:*') }) {
        my @value = ([ 'LPUSH', $key, 'x' ], [ 'SET', $key, "\0\r\n*3" ], [ 'SET', $key, '9' x 300 ], [ 'SET', $key, '-1 -1' ], [ 'HSET', $key, 1, 1 ], [ 'SET', $key, '' ])[ $round % 6 ]->@*;
        ask($redis, 'DEL', $key);
        ask($redis, @value);
    }
    $round++;
});

all_quit();
done_testing;
