# Clocks that are wrong: gateways ahead and behind by up to an hour, gateways whose clock steps, a Redis whose clock steps. The clock of
# a gateway changes nothing; a step of Redis's by eps admits at most R*eps more. The monotonic clock is right, as it is with real clocks
# that are wrong. Needs a C compiler: libfaketime does not run with a Redis that has jemalloc.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

plan skip_all => 'a long test: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};
plan skip_all => 'there is no C compiler' if system 'cc --version >/dev/null 2>&1';

# The calendar clock of whoever is started with it is off by what is in a file, in microseconds.
my $dir = conf();
Sluice::Run::spew("$dir/clock.c", <<'C');
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long none, *off = &none;
__attribute__((constructor)) static void start(void) {
    const char *path = getenv("CLOCK_OFF");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) off = at;
    if (fd >= 0) close(fd);
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int rc = syscall(SYS_clock_gettime, id, t);
    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        long long us = t->tv_sec * 1000000LL + t->tv_nsec / 1000 + *off;
        t->tv_sec = us / 1000000;
        t->tv_nsec = us % 1000000 * 1000;
    }
    return rc;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void) zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
C
is system("cc -shared -fPIC -O1 -o $dir/clock.so $dir/clock.c"), 0, 'the wrong clock compiles' or die "no clock\n";

srand 5;
my ($rate, $capacity) = (100, 21);
# Where the fault of others shows: they take turns, and re-credit the bucket whenever the clock seems to go back.
my @skews = map { [ $_, -$_ ] } qw(0 0.005 0.020 0.1 3600);

# set_clock($name, $seconds): a clock's offset, from now on.
sub set_clock {
    my ($name, $seconds) = @_;
    open my $file, -e "$dir/$name" ? '+<' : '>', "$dir/$name" or die "$name: $!\n";
    syswrite $file, pack 'q', 1e6 * $seconds;
    close $file or die "$name: $!\n";
    return;
}

# under($name, $code): what $code starts lives by this clock.
sub under {
    my ($name, $code) = @_;
    local @ENV{qw(LD_PRELOAD CLOCK_OFF)} = ("$dir/clock.so", "$dir/$name");
    return $code->();
}

sub gateway_of {
    my ($redis, $port) = @_;
    return gateway(main => 'error_log logs/error.log notice;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; breaker failures=1000; }
rate_limit_zone \$arg_k zone=gcra:1m  rate=${rate}r/s burst=20 redis=main;
rate_limit_zone \$arg_k zone=window:1m rate=20r/s algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=fixed:1m rate=20r/s algorithm=fixed_window redis=main;
rate_limit_zone \$arg_k zone=local:1m rate=${rate}r/s burst=20;
rate_limit_zone \$arg_k zone=lwindow:1m rate=20r/s algorithm=sliding_window;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$port;
    keepalive_requests 1000000;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    add_header Now \$msec always;
    location /gcra   { rate_limit zone=gcra nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /fixed  { rate_limit zone=fixed; empty_gif; }
    location /local  { rate_limit zone=local nodelay; empty_gif; }
    location /lwindow { rate_limit zone=lwindow; empty_gif; }
}
CONF
}

# Requests to all ports in turn, so many a second.
sub load {
    my ($path, $seconds, $pace, $ports, %of) = @_;
    my $turn = 0;
    return arrivals([ map { [ $_, $ports->[ $turn++ % @$ports ], $path ] } poisson($seconds, $pace) ], %of);
}

sub exact {
    my ($name, @answers) = @_;
    my @in = admitted(@answers);
    is count_of(qr/0|5\d\d/, @answers), 0, "$name: all answered, " . @answers;
    cmp_ok worst_excess(\@in, $capacity, $rate, 1000), '<=', 0, "$name: " . @in . ' admitted, never more than C + R*t';
    is scalar(hasty(\@answers, $capacity, $rate, 1000, 20)), 0, "$name: no refusal where there was room";
    return;
}

# Two gateways taking turns, one ahead and one behind.
my $redis = redis();
for my $skew (@skews) {
    my @ports = map { free_port() } @$skew;
    set_clock("gateway$_", $skew->[$_]) for 0, 1;
    my @gateways = map { my $port = $ports[$_]; under("gateway$_", sub { gateway_of($redis, $port) }) } 0, 1;
    my ($now) = header_of(get($ports[0], '/gcra'), 'Now');
    cmp_ok abs($now - time - $skew->[0]), '<', 0.3, "$skew->[0] s: the clock is wrong";
    ok wait_until(10, sub { 2 == grep { header_of(get($_, '/gcra?k=' . rand), 'S') eq 'PASSED:redis' } @ports }), 'Redis is reached';
    exact("+-$skew->[0] s", load("/gcra?k=$skew->[0]", 2, 500, \@ports));
    my @window = admitted(load("/window?k=$skew->[0]", 2.2, 200, \@ports));
    cmp_ok worst_window(\@window, 1000), '<=', 20, "+-$skew->[0] s: sliding_window, " . worst_window(\@window, 1000) . ' of 20 in the worst second';
    my @fixed = load("/fixed?k=$skew->[0]", 1.5, 200, \@ports);
    my %given = calendar([ admitted(@fixed) ], 1000);
    is scalar(grep { $_->[0] > 20 } values %given), 0, "+-$skew->[0] s: fixed_window, 20 in each second of Redis's";
    ok $_->quit, 'QUIT ends it' for @gateways;
    unlike join('', map { $_->log } @gateways), qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in the logs';
}

# steps($name, @steps): a CODE that writes the next of [ second, offset ] when it is due.
sub steps {
    my ($name, @steps) = @_;
    my $start = time;
    return sub {
        return if !@steps || time - $start < $steps[0][0];
        set_clock($name, (shift @steps)->[1]);
    };
}

# A gateway's clock steps while it limits: by Redis, and by itself (on the monotonic clock).
{
    my $port = free_port();
    set_clock(own => 0);
    my $gateway = under(own => sub { gateway_of($redis, $port) });
    ok wait_until(10, sub { header_of(get($port, '/gcra?k=' . rand), 'S') eq 'PASSED:redis' }), 'Redis is reached';
    my @steps = ([ 0.3, 0.05 ], [ 0.6, -0.05 ], [ 0.9, 3600 ], [ 1.2, 0 ], [ 1.5, -3600 ], [ 1.8, 86_400 * 400 ], [ 2.1, 0 ]);
    for my $path (qw(gcra local)) {
        exact("$path, a stepping gateway", load("/$path?k=steps", 2.5, 400, [$port], meanwhile => steps(own => @steps)));
    }
    for my $path (qw(window lwindow)) {
        my @answers = load("/$path?k=steps", 2.5, 200, [$port], meanwhile => steps(own => @steps));
        my $worst = worst_window([ admitted(@answers) ], 1000);
        cmp_ok $worst, '<=', 20, "$path, a stepping gateway: $worst of 20 in the worst second";
        cmp_ok scalar(admitted(@answers)), '>=', 36, "$path, a stepping gateway: and not locked up";
    }
    set_clock(own => 3600);
    ok wait_until(5, sub { abs(header_of(get($port, '/gcra'), 'Now') - time - 3600) < 5 }), 'the steps were seen';
    ok $gateway->quit, 'QUIT ends it';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}

# Redis's clock steps: what is admitted changes by at most R*eps for the steps forward, and nobody is locked up by those back.
{
    set_clock(redis => 0);
    my $stepping = under(redis => sub { redis() });
    my @ports    = map { free_port() } 1, 2;
    my @gateways = map { gateway_of($stepping, $_) } @ports;
    # [ offsets, in order of time; how much they go forward together ]
    for my $case ([ 0.1, 0.1 ], [ 1, 1 ], [ -1, 0 ], [ -3600, 0 ], [ 3600, 3600 ]) {
        my ($offset, $forward) = @$case;
        set_clock(redis => 0);
        ok wait_until(10, sub { 2 == grep { header_of(get($_, '/gcra?k=' . rand), 'S') eq 'PASSED:redis' } @ports }), 'Redis is reached';
        my @answers = load("/gcra?k=redis$offset", 3, 400, \@ports, meanwhile => steps(redis => [ 1, $offset ]));
        my @in   = admitted(@answers);
        my $must = bound($capacity, $rate, 1000, $in[-1]{got} - $in[0]{sent});
        # A step forward refills what is missing at most.
        my $gift = $rate * $forward > $capacity ? $capacity : $rate * $forward;
        is count_of(qr/0|5\d\d/, @answers), 0, "Redis steps by $offset s: all answered";
        cmp_ok scalar @in, '<=', $must + $gift, "Redis steps by $offset s: " . @in . " admitted, C + R*t + R*eps is $must + $gift";
        # A step back takes at most a bucket, and a second of slack.
        cmp_ok scalar @in, '>=', $must - $capacity - $rate - 0.1 * $must, "Redis steps by $offset s: nobody is locked up";
        # A window that ends eps early forgets all that came in that time, which is a window's whole count at most.
        my @window = load("/window?k=redis$offset", 3, 200, \@ports, meanwhile => steps(redis => [ 0, 0 ], [ 1, $offset ]));
        my $worst = worst_window([ admitted(@window) ], 1000);
        cmp_ok $worst, '<=', $forward ? 40 : 20, "Redis steps by $offset s: sliding_window, $worst in the worst second";
    }
    ok $_->quit, 'QUIT ends it' for @gateways;
    unlike join('', map { $_->log } @gateways), qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in the logs';
    $stepping->stop;
}
done_testing;
