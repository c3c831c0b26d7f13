# circuit_breaker_failure: each kind of failure is told from the others, and only those that are listed count.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Run;
use Test::More;

# A server that accepts (the kernel does) and never answers.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64, ReuseAddr => 1) or die;
my ($port, $back, $closed) = (free_port(), free_port(), free_port());

# Kind, what the upstream is, path at the backend, what the client sees (0: the connection is closed).
my @kinds = (
    [ error          => "127.0.0.1:$closed",                'refused',   502 ],
    [ error          => "127.0.0.1:$back",                  'reset',     502 ],
    [ timeout        => '127.0.0.1:' . $silent->sockport,   'silent',    504 ],
    [ invalid_header => "127.0.0.1:$back",                  'big',       502 ],
    [ http_500       => "127.0.0.1:$back",                  '500',       500 ],
    [ http_502       => "127.0.0.1:$back",                  '502',       502 ],
    [ http_503       => "127.0.0.1:$back",                  '503',       503 ],
    [ http_504       => "127.0.0.1:$back",                  '504',       504 ],
    [ http_429       => "127.0.0.1:$back",                  '429',       429 ],
    [ http_404       => "127.0.0.1:$back",                  '404',       404 ],
);
my @default = qw(error timeout invalid_header http_500 http_502 http_503 http_504);
my (@cases, $upstreams, $locations);

sub case {
    my ($kind, $server, $path, $status, $words, $trips) = @_;
    my $name = 'u' . @cases;
    my $line = $words ? "circuit_breaker_failure $words;" : '';
    $upstreams .= "upstream $name { server $server" . ($server =~ /down/ ? '' : ' max_fails=0') . "; circuit_breaker failures=2 open=30s; $line }\n";
    # The refusals' status is one that no backend gives.
    $locations .= "location /$name/ { proxy_pass http://$name/; circuit_breaker_status 529; }\n";
    push @cases, [ "/$name/$path", $status, $trips, "$path, listed: " . ($words || 'default'), $name, $kind ];
}
for (@kinds) {
    my $kind = $_->[0];
    my $is_default = grep { $_ eq $kind } @default;
    case(@$_, '',    $is_default);
    case(@$_, $kind, 1);
    case(@$_, join(' ', grep { $_ ne $kind } @default, 'http_429', 'http_404'), 0);
}
# Nobody is there, by decision: that is no result.
case(none => '127.0.0.1:1 down', 'none', 502, '', 0);
case(http_503 => "127.0.0.1:$back", '503', 503, 'http_500-599', 1);
my $answers = join '', map {"location /$_ { return $_; }\n"} 404, 429, 500, 502, 503, 504;
my $gateway = gateway(main => 'error_log logs/error.log info;', http => <<"CONF");
proxy_read_timeout 100ms;
proxy_buffer_size 4k;
$upstreams
server { listen 127.0.0.1:$port; $locations }
server {
    listen 127.0.0.1:$back;
    location /reset { return 444; }
    location /big { @{[ map {"add_header X-Big$_ " . 'x' x 1000 . ';'} 1 .. 5 ]} return 200; }
    $answers
}
CONF

for (@cases) {
    my ($path, $status, $trips, $what, $name, $kind) = @$_;
    my @seen = map { status_of(get($port, $path)) } 1 .. 3;
    is_deeply \@seen, [ $status, $status, $trips ? 529 : $status ], ($trips ? 'counts: ' : 'does not count: ') . $what;
    like $gateway->log, qr/upstream "$name" is open for 30\.0 s: 2 failures in \d+\.\d+ s, last $kind\b/, "named $kind" if $trips;
}
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|exited on signal/, 'nothing bad in the log';

for (
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure http_200; }',        'has invalid value "http_200" of "circuit_breaker_failure", error, timeout, invalid_header, http_CODE or http_CODE-CODE from 400 to 599 expected' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure http_5xx; }',        'has invalid value "http_5xx" of "circuit_breaker_failure", error, timeout, invalid_header, http_CODE or http_CODE-CODE from 400 to 599 expected' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure errors; }',          'has invalid value "errors" of "circuit_breaker_failure", error, timeout, invalid_header, http_CODE or http_CODE-CODE from 400 to 599 expected' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure http_599-500; }',    'has invalid value "http_599-500" of "circuit_breaker_failure", error, timeout, invalid_header, http_CODE or http_CODE-CODE from 400 to 599 expected' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure http_500-503 http_502; }', 'has duplicate parameter "http_502"' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure error error; }',     'has duplicate parameter "error"' ],
    [ 'upstream u { server 127.0.0.1:1; circuit_breaker_failure error; circuit_breaker_failure error; }', 'is duplicate' ],
    [ 'server { circuit_breaker_failure error; }',                                   'is not allowed here' ],
) {
    my ($http, $said) = @$_;
    my ($status, $text) = nginx_t(http => $http);
    like $text, qr/"circuit_breaker_failure" directive \Q$said\E.* in \S+nginx\.conf:\d+/, $http;
}

done_testing;
