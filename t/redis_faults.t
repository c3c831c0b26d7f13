# Redis killed, stalled, full, garbled, flushed: no request is late, none is answered 5xx but by on_error=deny.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

# A request may take so much longer than the deadline of 50 ms on a busy machine.
my $late = 0.6;

my $redis = redis();
my $slow  = redis();
my $port  = free_port();
my $http  = <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 50ms; breaker failures=5 open=300ms; }
redis slow { server 127.0.0.1:$slow->{port}; timeout 2s; breaker failures=1000; }
rate_limit_zone \$arg_k zone=local:1m  rate=20r/m burst=19 redis=main;
rate_limit_zone \$arg_k zone=window:1m rate=20r/h algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=fixed:1m  rate=20r/1000d algorithm=fixed_window redis=main;
rate_limit_zone \$arg_k zone=allow:1m  rate=5r/m redis=main on_error=allow;
rate_limit_zone \$arg_k zone=deny:1m   rate=5r/m burst=99 redis=main on_error=deny;
rate_limit_zone \$arg_k zone=flush:1m  rate=200r/h algorithm=sliding_window redis=slow;
rate_limit_zone \$arg_k zone=slow:1m   rate=1000r/s burst=1000 redis=slow;
server {
    listen 127.0.0.1:$port;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /local  { rate_limit zone=local nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /fixed  { rate_limit zone=fixed; empty_gif; }
    location /allow  { rate_limit zone=allow nodelay; empty_gif; }
    location /deny   { rate_limit zone=deny nodelay; empty_gif; }
    location /dpage  { rate_limit zone=deny nodelay; error_page 503 /sorry; empty_gif; }
    location = /sorry { internal; return 503 sorry; }
    location /flush  { rate_limit zone=flush; empty_gif; }
    location /slow   { rate_limit zone=slow nodelay; empty_gif; }
    location /stub   { stub_status; }
}
CONF
my $gateway = gateway(main => 'error_log logs/error.log info;', http => $http, workers => 2);

sub said  { my ($what) = @_; return scalar(() = $gateway->log =~ /$what/g) }
sub by    { my ($what, @answers) = @_; return scalar grep { $_->{head} =~ /^S: $what\r?$/m } @answers }
sub again { wait_until(10, sub { by('\w+:(?:redis|cache)', burst(16, [$port], '/allow?k=' . rand, at_once => 8)) == 16 }) }
ok again(), 'Redis decides';

# What both workers learn of a key: 12 of 20 used.
is count_of(200, burst(12, [$port], "/$_?k=seed")), 12, "$_: 12 of 20 before" for qw(local window fixed);

# Killed under load.
my ($lost, $killed) = (said('redis is lost'), 0);
my @answers = load_for(1.2, [$port], '/local?k=load', at_once => 8, meanwhile => sub {
    $killed++ or kill 'KILL', $redis->{pid};
});
is count_of(qr/5\d\d|0/, @answers), 0, 'killed: no 5xx among ' . @answers;
cmp_ok count_of(200, @answers), '<=', 20 + 20 + 1, 'killed: no more than a bucket of Redis and one of this host';
cmp_ok slowest(@answers), '<', $late, 'killed: none is late';
is said('redis is lost') - $lost, 1, 'killed: one line, though both workers lost it';
for (qw(local window fixed)) {
    my @after = burst(20, [$port], "/$_?k=seed");
    is count_of(200, @after), 8, "$_: no free refill: 8 of 20 after";
    is by('\w+:fallback', @after), 20, "$_: by this host";
}
@answers = burst(10, [$port], '/allow?k=a');
is by('ERROR_ALLOWED:?', @answers), 10, 'allow: nobody is limited';
is count_of(200, @answers), 10, 'allow: 200';
@answers = burst(3, [$port], '/deny?k=a');
is count_of(503, @answers), 3, 'deny: 503';
like $answers[0]{head}, qr/^Retry-After: 1\r?$/m, 'deny: Retry-After';
like $answers[0]{head}, qr/^Cache-Control: no-store\r?$/m, 'deny: not to be stored';
like $answers[0]{head}, qr/^S: ERROR_DENIED:?\r?$/m, 'deny: said so';
is $answers[0]{body}, '{"success":false,"error":{"code":"SERVICE_UNAVAILABLE","message":"Service temporarily unavailable. Please try again later.","retryAfter":1}}', 'deny: the body';
is body_of(get($port, '/dpage?k=a')), 'sorry', 'deny: error_page wins';

my $back = said('redis is back after');
waitpid $redis->{pid}, 0;
$redis = redis(port => $redis->{port});
ok again(), 'restarted: Redis decides again';
is said('redis is back after') - $back, 1, 'restarted: one line';

# Stalled under load: the first few wait for the deadline, then nobody does.
$redis->signal('STOP');
@answers = load_for(1.5, [$port], '/local?k=stall', at_once => 8);
is count_of(qr/5\d\d|0/, @answers), 0, 'stalled: no 5xx among ' . @answers;
cmp_ok slowest(@answers), '<', $late, 'stalled: none is late';
my $waited = grep { $_->{seconds} > 0.045 } @answers;
cmp_ok $waited, '<=', 2 * (5 + 8), "stalled: $waited waited, then none";
ok by('\w+:fallback', @answers) > 10, 'stalled: by this host';
$redis->signal('CONT');
ok again(), 'continued: Redis decides again';

# CLIENT PAUSE is a stall that TCP does not see either.
ask($redis->{port}, qw(CLIENT PAUSE 600 ALL));
@answers = load_for(0.5, [$port], '/local?k=pause', at_once => 4);
is count_of(qr/5\d\d|0/, @answers), 0, 'paused: no 5xx';
cmp_ok slowest(@answers), '<', $late, 'paused: none is late';
ok again(), 'paused: Redis decides again';

# The script is forgotten again and again; with time enough for a machine that is busy otherwise.
my $turns = 0;
my $connection = redis_up($slow->{port});
@answers = load_for(1, [$port], '/flush?k=flush', at_once => 4, meanwhile => sub { ask($connection, qw(SCRIPT FLUSH)) if $turns++ % 5 == 0 });
cmp_ok scalar @answers, '>', 200, 'SCRIPT FLUSH: more than fit, ' . @answers;
is count_of(200, @answers), 200, 'SCRIPT FLUSH: exact';
is by('\w+:fallback', @answers), 0, 'SCRIPT FLUSH: nobody noticed' or diag join "\n", $gateway->log =~ /gave no decision[^\n]*/g;

# Clients are thrown out.
$connection = redis_up($redis->{port});
ask($connection, qw(CLIENT KILL TYPE normal SKIPME yes));
@answers = load_for(0.3, [$port], '/local?k=kill', at_once => 4);
is count_of(qr/5\d\d|0/, @answers), 0, 'CLIENT KILL: no 5xx';
ok again(), 'CLIENT KILL: Redis decides again';

# A wrong type and garbage at our key count as absent; nobody else's limit is hurt.
burst(1, [$port], '/local?k=type');
for my $spoil (sub { ask($connection, 'LPUSH', $_[0], 'x') }, sub { ask($connection, 'SET', $_[0], 'not ours') }, sub { ask($connection, 'SET', $_[0], '9' x 30) }) {
    for my $key (@{ ask($connection, 'KEYS', 'sluice:*') }) { ask($connection, 'DEL', $key); $spoil->($key) }
    @answers = burst(22, [$port], '/local?k=type');
    is count_of(qr/5\d\d|0/, @answers), 0, 'spoilt: no 5xx';
    cmp_ok count_of(200, @answers), '<=', 22, 'spoilt: still limited';
}
ask($connection, 'FLUSHALL');

# Full: nothing can be written.
ask($connection, qw(CONFIG SET maxmemory 1));
@answers = burst(30, [$port], '/local?k=full');
is count_of(qr/5\d\d|0/, @answers), 0, 'full: no 5xx';
is count_of(200, @answers), 20, 'full: 20 of 30';
ask($connection, qw(CONFIG SET maxmemory 0));
ok again(), 'full no more: Redis decides again';

# Clients that leave while they wait are forgotten.
$slow->signal('STOP');
my @gone = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") } 1 .. 40;
syswrite $_, "GET /slow?k=x HTTP/1.1\r\nHost: x\r\n\r\n" for @gone;
ok wait_until(3, sub { body_of(get($port, '/stub')) =~ /Active connections: (\d+)/ && $1 == 41 }), '40 clients wait';
close $_ for @gone;
ok wait_until(3, sub { body_of(get($port, '/stub')) =~ /Active connections: (\d+)/ && $1 == 1 }), 'they left, nothing of them is left';
my $stalled = Time::HiRes::time();
$slow->signal('CONT');
is status_of(get($port, '/slow?k=y')), 200, 'late answers for nobody hurt nobody';

# Redis away while the gateway leaves.
$slow->signal('STOP');
my $last = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port");
syswrite $last, "GET /local?k=z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
my $began = Time::HiRes::time();
ok $gateway->quit, 'QUIT ends it';
cmp_ok Time::HiRes::time() - $began, '<', 3, 'at once';
$slow->signal('CONT');
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
