# What is counted of a host: connections, workers, caches, the core's limits, and limits of this module.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my ($port, $api) = (free_port(), free_port());
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die;
my $hung = '127.0.0.1:' . $mute->sockport;
my $back = backend(server => 'location / { add_header Cache-Control "max-age=60"; return 200 "0123456789"; } location /short { add_header Cache-Control "max-age=1, stale-while-revalidate=60"; return 200 abc; } location /never { add_header Cache-Control no-store; return 200 abc; }');
my $at   = "127.0.0.1:$back->{port}";
my $log  = 'error_log logs/error.log notice;';
my $http = <<CONF;
    proxy_cache_path temp/c keys_zone=pages:1m max_size=10m;
    proxy_cache_path temp/d keys_zone=other:1m;
    limit_req_zone \$arg_a zone=slow:1m rate=1r/m;
    limit_req_zone \$arg_b zone=tried:1m rate=1r/m;
    limit_req_zone \$arg_c zone=queued:1m rate=20r/s;
    limit_conn_zone \$server_port zone=few:1m;
    rate_limit_zone \$arg_k zone=mine:1m rate=1r/m;
    rate_limit_zone \$arg_l zone=mine2:1m rate=20r/s burst=5;
    server {
        listen 127.0.0.1:$port;
        proxy_cache_bypass \$arg_bypass;
        location / { proxy_pass http://$at; }
        location /cached { proxy_cache pages; proxy_pass http://$at/; }
        location /short { proxy_cache pages; proxy_cache_use_stale updating error; proxy_pass http://$at/short; }
        location /never { proxy_cache pages; proxy_pass http://$at/never; }
        location /slow { limit_req zone=slow; error_page 503 = /sorry; proxy_pass http://$at/; }
        location /tried { limit_req zone=tried; limit_req_dry_run on; proxy_pass http://$at/; }
        location /queued { limit_req zone=queued burst=5; proxy_pass http://$at/; }
        location /few { limit_conn few 2; proxy_pass http://$hung; }
        location /sorry { return 200 sorry; }
        location /mine { rate_limit zone=mine when=\$arg_w; rate_limit_status 429; proxy_pass http://$at/; }
        location /dry { rate_limit zone=mine dry_run; proxy_pass http://$at/; }
        location /both { rate_limit zone=mine; rate_limit zone=mine2; proxy_pass http://$at/; }
    }
CONF
my $gateway = gateway(main => $log, workers => 2, http => "$http server { listen 127.0.0.1:$api; location /api { api write=on; allow all; } }");

sub of { my $answer = get($api, "/api/9$_[0]"); return status_of($answer) == 200 ? decode_json(body_of($answer)) : {} }

# counts($path, $wanted, $what): those numbers of a document, once the requests have ended.
sub counts {
    my ($path, $wanted, $what) = @_;
    my (%is, $all);
    my $same = sub {
        $all = of($path);
        %is  = map { my $found = $all; $found = ref $found ? $found->{$_} : undef for split /\./; ($_ => $found) } keys %$wanted;
        return !grep { !defined $is{$_} || $is{$_} ne $wanted->{$_} } keys %$wanted;
    };
    ok wait_until(5, $same), $what or diag explain [ \%is, $wanted ];
}

# Caches.
get($port, '/cached?1') for 1 .. 3;
get($port, '/cached?2');
get($port, '/cached?2&bypass=1');
get($port, '/never') for 1 .. 2;
counts('/http/caches/pages', { 'miss.responses' => 4, 'miss.bytes' => 26, 'miss.responses_written' => 2, 'miss.bytes_written' => 20, 'hit.responses' => 2, 'hit.bytes' => 20, 'bypass.responses' => 1, 'bypass.bytes' => 10, 'max_size' => 10485760 },
    'misses, hits and what goes around the cache');
counts('/http/caches/other', { 'miss.responses' => 0, 'hit.responses' => 0, size => 0 }, 'another cache');
ok !exists of('/http/caches/other')->{max_size}, 'without a bound';
cmp_ok of('/http/caches/pages')->{size}, '>=', 4096, 'its size';
ok wait_until(10, sub { get($port, '/short'); of('/http/caches/pages')->{expired}{responses} >= 1 }), 'one that was too old' or diag explain of('/http/caches/pages');
counts('/http/caches/pages', { 'expired.bytes' => 3, 'expired.responses_written' => 1, 'expired.bytes_written' => 3 }, 'fetched again, and kept');

# limit_req: also where error_page leads elsewhere.
is body_of(get($port, '/slow?a=1')), '0123456789', 'passed';
is body_of(get($port, '/slow?a=1')), 'sorry', 'rejected, and answered elsewhere';
get($port, '/tried?b=1') for 1 .. 3;
get($port, '/queued?c=1') for 1 .. 3;
counts('/http/limit_reqs/slow',  { passed => 1, rejected => 1, delayed => 0 }, 'limit_req: passed and rejected');
counts('/http/limit_reqs/tried', { passed => 1, rejected_dry_run => 2, rejected => 0 }, 'limit_req: dry run');
ok wait_until(5, sub { my $is = of('/http/limit_reqs/queued'); $is->{passed} + $is->{delayed} == 3 && $is->{delayed} >= 1 }), 'limit_req: delayed' or diag explain of('/http/limit_reqs/queued');

# limit_conn, and what is open.
my @held = map {
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
    print {$socket} "GET /few HTTP/1.1\r\nHost: x\r\n\r\n";
    Time::HiRes::sleep(0.05);
    $socket;
} 1 .. 3;
counts('/http/limit_conns/few', { passed => 0, rejected => 1, rejected_dry_run => 0 }, 'limit_conn: the third is rejected');
ok wait_until(5, sub { my $sum = 0; $sum += $_->{http}{requests}{current} for @{ of('/workers') }; $sum == 3 }), 'two under way, and the one that asks' or diag explain of('/workers');
ok wait_until(5, sub { of('/connections')->{active} >= 3 }), 'connections that serve' or diag explain of('/connections');
my $idle = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
print {$idle} "GET /sorry HTTP/1.1\r\nHost: x\r\n\r\n";
sysread $idle, my $answer, 1000;
ok wait_until(5, sub { my $sum = 0; $sum += $_->{connections}{idle} for @{ of('/workers') }; $sum >= 1 }), 'a worker has one that waits for a request';
ok wait_until(5, sub { of('/connections')->{idle} >= 1 }), 'of all workers';
close $_ for @held;
counts('/http/limit_conns/few', { passed => 2, rejected => 1 }, 'limit_conn: those that passed, when they end');

# Workers: each connection and request is one worker's.
my @workers = @{ of('/workers') };
is_deeply [ map { $_->{id} } @workers ], [ 0, 1 ], 'two workers';
my %lives = map { $_ => 1 } $gateway->workers;    # beside processes that look after caches
ok !(grep { !$lives{ $_->{pid} } } @workers), 'and who they are';
ok wait_until(5, sub {
        my ($accepted, $all) = (0, of('/connections')->{accepted});
        $accepted += $_->{connections}{accepted} for @{ of('/workers') };
        return $accepted == $all + 1;
    }), 'connections of all workers are all connections, and the one that asked last';

# rate_limit, by zone and outcome.
get($port, '/mine?w=1&k=1') for 1 .. 3;
get($port, '/mine?w=1');
get($port, '/mine?k=1');
counts('/http/rate_limits/mine', { passed => 1, rejected => 2, bypassed => 2, 'sources.local' => 3 }, 'passed, rejected, bypassed');
get($port, '/dry?k=2') for 1 .. 3;
counts('/http/rate_limits/mine', { passed => 2, rejected => 2, rejected_dry_run => 2, 'sources.local' => 6 }, 'dry run');
get($port, '/both?k=1&l=1');
counts('/http/rate_limits/mine', { rejected => 3 }, 'refused by one of two');
counts('/http/rate_limits/mine2', { passed => 0, rejected => 0 }, 'the other was not charged, and counts nothing');
get($port, '/both?l=1') for 1 .. 4;
ok wait_until(5, sub { my $is = of('/http/rate_limits/mine2'); $is->{passed} + $is->{delayed} == 4 && $is->{delayed} >= 1 }), 'delayed' or diag explain of('/http/rate_limits/mine2');
counts('/http/rate_limits/mine', { bypassed => 6, 'keys.used' => 2 }, 'bypassed, as its key is empty; two keys');

# Over a reload, and back to 0.
my ($mine, $pages) = map { of($_) } '/http/rate_limits/mine', '/http/caches/pages';
ok $gateway->reload, 'reload';
is_deeply of('/http/rate_limits/mine'), $mine, 'limits: as it was';
is_deeply of('/http/caches/pages'), $pages, 'caches: as it was';
counts('/http/limit_reqs/slow', { passed => 1, rejected => 1 }, 'limit_req: as it was');
for my $path (qw(/http/caches/pages /http/limit_reqs/slow /http/limit_conns/few /http/rate_limits/mine)) {
    is status_of(get($api, "/api/9$path", method => 'DELETE')), 204, "$path: reset";
}
counts('/http/caches/pages', { 'hit.responses' => 0, 'miss.bytes_written' => 0 }, 'caches: from 0');
counts('/http/limit_reqs/slow', { passed => 0, rejected => 0 }, 'limit_req: from 0');
counts('/http/limit_conns/few', { passed => 0, rejected => 0 }, 'limit_conn: from 0');
counts('/http/rate_limits/mine', { passed => 0, bypassed => 0, 'sources.local' => 0 }, 'limits: from 0');
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# One process that does everything.
$gateway = gateway(main => "$log master_process off;", http => "server { listen 127.0.0.1:$port; status_zone z; return 200; } server { listen 127.0.0.1:$api; location /api { api; } }");
get($port, '/') for 1 .. 3;
counts('/http/server_zones/z', { requests => 3, processing => 0 }, 'a single process');
is scalar @{ of('/workers') }, 1, 'one worker';
$gateway->stop;
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

done_testing;
